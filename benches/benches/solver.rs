//! The solver on Llama-8B: a plan for a length that is new, and for one that has a plan.
//!
//! A new length must have its plan within a millisecond, a known one within ten microseconds. The costs
//! are those of `hetero-sched`'s tests: a parametric phone, whose formulas take about as long to evaluate as a
//! profile's interpolation.

use std::sync::Arc;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use hetero_core::{DType, Graph, RowSelection, StepParams, WeightFormat};
use hetero_llama::config::ModelConfig;
use hetero_llama::graph::{GraphOptions, build};
use hetero_sched::cost::DeviceSet;
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

fn solver(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("solver/llama-3-8b");
    for n_devices in [2, 3] {
        let costs = Parametric::phone(n_devices);
        for (name, effort) in [("default", Effort::default()), ("careful", Effort::careful())] {
            let options = SolveOptions { effort, ..SolveOptions::new(DeviceSet::first(n_devices)) };
            let lengths: &[usize] = if name == "default" { &[1, 100, 300, 700, 1024] } else { &[1, 300] };
            for &positions in lengths {
                let graph = llama_8b(positions);
                let step = StepParams { rows: positions, past: 0 };
                let id = BenchmarkId::new(format!("{n_devices} devices, {name}"), format!("{positions} positions"));
                group.bench_function(id, |bencher| bencher.iter(|| solve(&graph, &costs, step, &options)));
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
