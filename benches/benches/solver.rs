//! The solver on Llama-8B: a plan for a length that is new, and for one that has a plan.
//!
//! A new length must have its plan within a millisecond, a known one within ten microseconds. There are two phones:
//! the one of `hetero-sched`'s tests, whose costs are formulas, and the simulated Snapdragon 8 Gen 3 as the profiler
//! measures it, whose processors share a bus too narrow for all of them: timing a plan takes longer there.

use std::sync::Arc;

use backend_npu_sim::{Numerics, SimOptions, SimulatedSoc, Soc, TimeMode, blank_weight};
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use hetero_core::{Backend, DType, DeviceInfo, DeviceKind, Graph, RowSelection, StepParams, WeightFormat};
use hetero_llama::config::ModelConfig;
use hetero_llama::graph::{GraphOptions, build};
use hetero_llama::simulate::PhoneClock;
use hetero_sched::cost::{CostModel, DeviceSet, ProfiledCosts, ProfiledOptions};
use hetero_sched::profile::{MeasureOptions, measure_all};
use hetero_sched::solver::{Effort, PlanCache, PlanKey};
use hetero_sched::{SolveOptions, solve};

#[path = "../../crates/hetero-sched/tests/solver/phone.rs"]
mod phone;

use phone::Parametric;

fn llama_8b(positions: usize) -> Arc<Graph> {
    let config = ModelConfig::shape("llama-3-8b").expect("a known shape");
    let options = GraphOptions {
        capacity: positions,
        context: 2048,
        weights: WeightFormat::W4G32,
        embedding: WeightFormat::F16,
        cache: DType::F16,
        logits: RowSelection::Last,
    };
    build(&config, &options).graph
}

/// Costs of the first processors of the simulated phone, GPU, NPU and CPU, as they are measured there.
fn measured(n_devices: usize) -> ProfiledCosts {
    let soc = Soc::builtin("snapdragon-8-gen-3").expect("a built-in system");
    let options = SimOptions { numerics: Numerics::None, time: TimeMode::Virtual, ..SimOptions::default() };
    let phone = SimulatedSoc::new(soc, options);
    let kinds = [DeviceKind::Gpu, DeviceKind::Npu, DeviceKind::Cpu];
    let devices: Vec<Arc<dyn Backend>> = kinds[..n_devices].iter().map(|&kind| phone.backend(kind)).collect();
    let measuring = MeasureOptions { blank_weight: Some(blank_weight), ..MeasureOptions::in_virtual_time() };
    let graph = llama_8b(1024);
    let clock = PhoneClock(Arc::clone(&phone));
    let profile = measure_all(&devices, &graph, &clock, &measuring).expect("a profile");
    let infos: Vec<DeviceInfo> = devices.iter().map(|device| device.info().clone()).collect();
    let known = ProfiledOptions { is_polling: true, ..ProfiledOptions::default() };
    ProfiledCosts::new(&profile, &infos, &graph, &known)
}

fn solver(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("solver/llama-3-8b");
    for n_devices in [2, 3] {
        let phones: [(&str, Box<dyn CostModel>); 2] =
            [("formulas", Box::new(Parametric::phone(n_devices))), ("measured", Box::new(measured(n_devices)))];
        for (phone, costs) in phones {
            for (name, effort) in [("default", Effort::default()), ("careful", Effort::careful())] {
                let options = SolveOptions { effort, ..SolveOptions::new(DeviceSet::first(n_devices)) };
                let lengths: &[usize] = if name == "default" { &[1, 100, 300, 700, 1024] } else { &[1, 300] };
                for &positions in lengths {
                    let graph = llama_8b(positions);
                    let step = StepParams { rows: positions, past: 0 };
                    let id = format!("{n_devices} devices, {phone}, {name}");
                    let id = BenchmarkId::new(id, format!("{positions} positions"));
                    group.bench_function(id, |bencher| bencher.iter(|| solve(&graph, &*costs, step, &options)));
                }
            }
        }
    }
    let (graph, costs) = (llama_8b(300), Parametric::phone(2));
    let options = SolveOptions::new(DeviceSet::first(2));
    let mut cache = PlanCache::new(16);
    group.bench_function("known length", |bencher| {
        bencher.iter(|| {
            let key = PlanKey::new(StepParams { rows: 300, past: 0 }, &options);
            cache.get_or_solve(&key, |step| solve(&graph, &costs, step, &options))
        });
    });
    group.finish();
}

criterion_group!(benches, solver);
criterion_main!(benches);
