//! The paper's method on the paper's numbers: Table 3 of arXiv 2501.14794 v2, all nine rows.
//!
//! How the latencies are read: a share of the weight rows takes that share of the latency; between two lengths of a
//! weight matrix the latency is linear, and beyond the last one it goes on as between the last two. Lengths of the NPU
//! are padded to 128, 256, 384 or 512, the step of the lengths in the table. Synchronisation takes 50 us. Ratios are
//! those that the table prints: 1:1, 3:1 and 2:3 (GPU to NPU).

use std::sync::Arc;

use hetero_core::{DType, DeviceKind, Graph, GraphBuilder, Op, OpSpec, StepParams};
use hetero_sched::cost::{ClassId, CostModel, DeviceCosts, DeviceSet, PartShape};
use hetero_sched::solver::Method;
use hetero_sched::{SolveOptions, solve};

use crate::models::linear;

const GPU: usize = 0;
const NPU: usize = 1;
const SYNC_US: f64 = 50.0;

/// What is published of one weight matrix: positions, microseconds on the GPU, on the NPU.
#[derive(Debug)]
struct Weight {
    out_features: usize,
    in_features: usize,
    points: &'static [(f64, f64, f64)],
}

const SQUARE: Weight = Weight {
    out_features: 4096,
    in_features: 4096,
    points: &[(1.0, 511.0, 693.0), (128.0, 7306.0, 912.0), (256.0, 10841.0, 1884.0)],
};
const GATE_UP: Weight = Weight { out_features: 28672, in_features: 4096, points: &[(1.0, 1903.0, 3886.0)] };
/// 384 positions: the upper ends of the ranges that the table gives for 257 to 384.
const DOWN: Weight = Weight {
    out_features: 4096,
    in_features: 14336,
    points: &[(1.0, 1467.0, 6506.0), (256.0, 35231.0, 23445.0), (384.0, 50000.0, 32000.0)],
};

/// What the table's column "strategy" says.
#[derive(Debug, PartialEq)]
enum Strategy {
    GpuOnly,
    NpuOnly,
    /// Weight rows in this ratio, GPU to NPU.
    WeightCentric(usize, usize),
    /// So many positions on the NPU, the rest on the GPU.
    ActivationCentric(usize),
}

use Strategy::*;

#[test]
fn the_papers_strategies_follow_from_the_papers_latencies() {
    let check = |weight: &'static Weight, positions: usize, expected: Strategy| {
        let (strategy, _) = decide(weight, positions, vec![[1, 1], [3, 1], [2, 3]]);
        assert_eq!(strategy, expected, "{weight:?} with {positions} positions");
    };
    // Row 1. 1:1 takes max(511, 693) / 2 + 50 = 396.5 us; 3:1 takes 433 us, 2:3 takes 466 us, the GPU alone 511 us.
    check(&SQUARE, 1, WeightCentric(1, 1));
    // Row 2. 3:1 takes 0.75 * 1903 + 50 = 1477 us; 1:1 takes 1993 us, the GPU alone 1903 us.
    check(&GATE_UP, 1, WeightCentric(3, 1));
    // Row 3. 3:1 takes 0.25 * 6506 + 50 = 1676 us, more than the GPU alone with 1467 us.
    check(&DOWN, 1, GpuOnly);
    // Row 4. The NPU alone takes 962 us; a quarter of the GPU's time is already 1827 us.
    check(&SQUARE, 128, NpuOnly);
    // Row 5. Padded to 256 the NPU takes 1934 us; 128 positions on it leave 65 or more to the GPU: 3936 us.
    for positions in [193, 224, 255] {
        check(&SQUARE, positions, NpuOnly);
    }
    // Row 6. 1934 us; two fifths of the GPU's time are 4336 us.
    check(&SQUARE, 256, NpuOnly);
    // Row 7. 256 positions on the NPU take 1884 us, up to 16 on the GPU 511 to 1314 us beside them; padding to 384
    // takes 2856 us.
    for positions in [257, 264, 272] {
        check(&SQUARE, positions, ActivationCentric(256));
    }
    // Row 8. 2:3 takes max(0.4 * 35231, 0.6 * 23445) + 50 = 14142 us; 1:1 takes 17666 us.
    check(&DOWN, 256, WeightCentric(2, 3));
    // Row 9, the hybrid: padded to 384 on the NPU, 2:3 takes 0.6 * 32000 = 19200 us there and up to 20000 us on the
    // GPU; 256 positions on the NPU alone take 23445 us.
    for positions in [320, 352, 384] {
        check(&DOWN, positions, WeightCentric(2, 3));
    }
    // At the lower end of that range the latencies prove another ratio faster: the NPU computes 384 positions, the GPU
    // only 257, so 1:1 takes max(0.5 * 35346, 0.5 * 32000) + 50 = 17723 us against 19250 us for 2:3. The two meet where
    // half of the GPU's latency is 19200 us, at 283 positions.
    check(&DOWN, 257, WeightCentric(1, 1));
    check(&DOWN, 285, WeightCentric(2, 3));
}

#[test]
fn finer_ratios_are_never_slower() {
    // With cuts at every 32 rows the same latencies allow, for example:
    // row 1, 2368:1728: max(2368 / 4096 * 511, 1728 / 4096 * 693) + 50 = max(295.4, 292.4) + 50 = 345.4 us, 51 us less;
    // row 2, 19264:9408: max(1278.6, 1275.1) + 50 = 1328.6 us, 149 us less;
    // row 3, 3360:736: max(1203.4, 1169.0) + 50 = 1253.4 us, 214 us less than the GPU alone;
    // row 4, 448:3648: max(799.1, 812.3) + 50 = 862.3 us, 100 us less than the NPU alone.
    let cases =
        [(&SQUARE, 1), (&GATE_UP, 1), (&DOWN, 1), (&SQUARE, 128), (&SQUARE, 224), (&SQUARE, 256), (&SQUARE, 264)];
    for (weight, positions) in cases.into_iter().chain([(&DOWN, 256), (&DOWN, 320)]) {
        let (_, coarse) = decide(weight, positions, vec![[1, 1], [3, 1], [2, 3]]);
        let (strategy, fine) = decide(weight, positions, Vec::new());
        assert!(fine <= coarse, "{weight:?} with {positions} positions: {strategy:?} takes {fine} us, not {coarse} us");
    }
    let saved = |weight, ratios: Vec<[usize; 2]>| decide(weight, 1, ratios).1;
    assert!((saved(&SQUARE, Vec::new()) - 345.4).abs() < 1.0);
    assert!((saved(&DOWN, Vec::new()) - 1253.4).abs() < 1.0);
}

/// The strategy that the paper's method chooses, and what its formula says it takes, in microseconds.
fn decide(weight: &'static Weight, positions: usize, ratios: Vec<[usize; 2]>) -> (Strategy, f64) {
    let costs = TableCosts::new(weight);
    let mut options = SolveOptions::new(DeviceSet::first(2));
    options.method = Method::Paper;
    options.paper_ratios = ratios;
    let solution = solve(&graph(weight, positions), &costs, StepParams { rows: positions, past: 0 }, &options).unwrap();
    let placed = &solution.plan.placements()[0];
    let seconds = |device: usize| -> f64 {
        placed
            .iter()
            .zip(&solution.part_seconds)
            .filter(|(placed, _)| placed.device_idx == device)
            .map(|(_, s)| s)
            .sum()
    };
    let share = |device: usize| -> usize {
        placed.iter().filter(|placed| placed.device_idx == device).map(|placed| placed.part.columns.len()).sum()
    };
    let is_on = |device: usize| placed.iter().any(|placed| placed.device_idx == device);
    let strategy = match (is_on(GPU), is_on(NPU)) {
        (true, false) => GpuOnly,
        (false, _) => NpuOnly,
        (true, true) if placed.iter().any(|placed| placed.part.rows.len() < positions) => ActivationCentric(
            placed.iter().filter(|placed| placed.device_idx == NPU).map(|placed| placed.part.rows.len()).sum(),
        ),
        (true, true) => {
            // The printed ratio that is nearest.
            let exact = share(GPU) as f64 / share(NPU) as f64;
            let distance = |&(gpu, npu): &(usize, usize)| (gpu as f64 / npu as f64 - exact).abs();
            let ratios = [(1, 1), (3, 1), (2, 3)];
            let (gpu, npu) = ratios.into_iter().min_by(|a, b| distance(a).total_cmp(&distance(b))).unwrap();
            WeightCentric(gpu, npu)
        }
    };
    let sync = if strategy == GpuOnly { 0.0 } else { SYNC_US };
    (strategy, seconds(GPU).max(seconds(NPU)) * 1e6 + sync)
}

fn graph(weight: &Weight, positions: usize) -> Arc<Graph> {
    let mut b = GraphBuilder::new(positions);
    let x = b.input("x", weight.in_features, DType::F32);
    let y = linear(&mut b, "linear", x, weight.in_features, weight.out_features);
    b.output(y);
    Arc::new(b.finish())
}

#[derive(Debug)]
struct TableCosts {
    devices: Vec<DeviceCosts>,
    weight: &'static Weight,
}

impl TableCosts {
    fn new(weight: &'static Weight) -> TableCosts {
        let device = |name: &str, kind, standard_rows| DeviceCosts {
            sync_seconds: SYNC_US * 1e-6,
            standard_rows,
            ..DeviceCosts::new(name, kind)
        };
        let devices =
            vec![device("gpu", DeviceKind::Gpu, vec![]), device("npu", DeviceKind::Npu, vec![1, 128, 256, 384, 512])];
        TableCosts { devices, weight }
    }
}

impl CostModel for TableCosts {
    fn devices(&self) -> &[DeviceCosts] {
        &self.devices
    }

    fn class(&self, spec: &OpSpec) -> ClassId {
        assert!(matches!(spec.op, Op::Linear { .. }), "the table has linear operators only");
        ClassId(0)
    }

    fn seconds(&self, device_idx: usize, shape: &PartShape) -> Option<f64> {
        let point = |&(positions, gpu, npu): &(f64, f64, f64)| (positions, [gpu, npu][device_idx]);
        let points: Vec<(f64, f64)> = self.weight.points.iter().map(point).collect();
        let positions = shape.rows as f64;
        let microseconds = match &points[..] {
            [(_, only)] => *only,
            _ => {
                let above = points.iter().position(|(at, _)| *at >= positions).unwrap_or(points.len() - 1).max(1);
                let ((x0, y0), (x1, y1)) = (points[above - 1], points[above]);
                y0 + (y1 - y0) * (positions - x0) / (x1 - x0)
            }
        };
        Some(microseconds * 1e-6 * shape.columns as f64 / self.weight.out_features as f64)
    }

    fn joules(&self, _: usize, _: &PartShape) -> f64 {
        0.0
    }

    fn idle_watts(&self) -> f64 {
        0.0
    }

    fn own_bytes(&self, _: usize, _: ClassId, _: usize) -> u64 {
        0
    }

    fn compile_seconds(&self, _: usize, _: &PartShape) -> f64 {
        0.0
    }
}
