//! Small graphs, where every plan can be tried: the solver finds the best one.

use std::ops::Range;
use std::sync::{Arc, Mutex};

use hetero_core::{DType, DeviceKind, Graph, GraphBuilder, NodeId, Op, OpSpec, Part, StepParams, ValueId};
use hetero_sched::cost::{ClassId, CostModel, DeviceCosts, DeviceSet, PartShape};
use hetero_sched::solver::Effort;
use hetero_sched::timing::timeline;
use hetero_sched::{PlacedPart, Plan, SolveOptions, solve, submissions};

use crate::models::{linear, norm, numbers};

const N_CASES: u64 = 1000;

#[test]
fn the_solver_is_optimal_on_every_small_graph() {
    let mut n_plans = 0;
    for seed in 0..N_CASES {
        let case = Case::random(seed);
        let (best, n) = case.try_everything();
        n_plans += n;
        let found = case.solve(Effort::default());
        assert!(found <= best * (1.0 + 1e-9), "case {seed}: {found} s, but {best} s is possible: {case:?}");
        assert!(found >= best * (1.0 - 1e-9), "case {seed}: {found} s is promised, but {best} s is the best: {case:?}");
    }
    assert!(n_plans > 100 * N_CASES as usize, "the cases are too small to tell anything: {n_plans} plans");
}

#[test]
fn the_beam_alone_is_close_to_optimal() {
    // The costs are wilder than those of devices, so the beam is somewhat wider than the default.
    let beam = Effort {
        all_combinations: 0,
        width: 60,
        width_per_ways: 4,
        width_per_place: 2,
        refined: 10,
        rounds: 2,
        replaces_all: true,
        ..Effort::default()
    };
    let (mut n_optimal, mut worst) = (0, 0.0f64);
    for seed in 0..N_CASES {
        let case = Case::random(seed);
        let (best, _) = case.try_everything();
        let loss = case.solve(beam) / best - 1.0;
        n_optimal += u64::from(loss < 1e-9);
        worst = worst.max(loss);
    }
    assert!(n_optimal * 100 >= N_CASES * 97, "only {n_optimal} of {N_CASES} are optimal");
    assert!(worst < 0.1, "one case loses {worst}");
}

/// A graph with random costs of its operators.
#[derive(Debug)]
struct Case {
    graph: Arc<Graph>,
    costs: RandomCosts,
    rows: usize,
}

/// Seconds of a part: so much, and so much for each row and column.
#[derive(Debug)]
struct RandomCosts {
    devices: Vec<DeviceCosts>,
    classes: Mutex<Vec<OpSpec>>,
    seed: u64,
}

impl CostModel for RandomCosts {
    fn devices(&self) -> &[DeviceCosts] {
        &self.devices
    }

    fn class(&self, spec: &OpSpec) -> ClassId {
        let mut classes = self.classes.lock().unwrap();
        let known = classes.iter().position(|known| known == spec);
        ClassId(known.unwrap_or_else(|| {
            classes.push(spec.clone());
            classes.len() - 1
        }))
    }

    fn seconds(&self, device_idx: usize, shape: &PartShape) -> Option<f64> {
        let mut next = numbers(self.seed * 1000 + (shape.class.0 * 10 + device_idx) as u64);
        let fixed = next() * 20.0;
        let per_row = next();
        let contention = 1.0 + 0.3 * next() * shape.companions.len() as f64;
        Some(fixed + per_row * contention * (shape.rows as f64 / 8.0).max(1.0) * shape.columns as f64 / 4.0)
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

impl Case {
    fn random(seed: u64) -> Case {
        let mut next = numbers(seed + 1);
        let mut pick = |n: usize| (next() * n as f64) as usize;
        let rows = [1, 1, 64, 96][pick(4)];
        let n_devices = if rows == 1 { 2 + pick(2) } else { 2 };
        let features = [64, 96][pick(2)];
        let mut b = GraphBuilder::new(rows);
        let input = b.input("x", features, DType::F32);
        let mut values: Vec<ValueId> = vec![input];
        let n_nodes = if n_devices == 3 { 3 } else { 3 + pick(2) };
        for _ in 0..n_nodes {
            let x = values[values.len() - 1 - pick(values.len().min(2))];
            let other = values[pick(values.len())];
            let value = match pick(5) {
                0 => norm(&mut b, "norm", x, features),
                1 => b.node("add", Op::Add { features }, &[x, other], &[], DType::F32),
                2 => b.node("swiglu", Op::Swiglu { features }, &[x, other], &[], DType::F32),
                _ => linear(&mut b, "linear", x, features, features),
            };
            values.push(value);
        }
        b.output(values[values.len() - 1]);
        let scale = [1.0, 10.0, 40.0][pick(3)];
        let fixed_shape = pick(2) == 0;
        let devices = (0..n_devices).map(|idx| DeviceCosts {
            submit_seconds: next() * scale,
            submit_idle_seconds: next() * scale,
            start_seconds: next() * scale / 4.0,
            sync_seconds: next() * scale,
            standard_rows: if idx == 1 && fixed_shape && rows > 1 { vec![32, 64] } else { Vec::new() },
            ..DeviceCosts::new(&format!("device {idx}"), DeviceKind::Cpu)
        });
        let costs = RandomCosts { devices: devices.collect(), classes: Mutex::default(), seed };
        Case { graph: Arc::new(b.finish()), costs, rows }
    }

    fn solve(&self, effort: Effort) -> f64 {
        let mut options = SolveOptions::new(DeviceSet::first(self.costs.devices.len()));
        options.effort = effort;
        let step = StepParams { rows: self.rows, past: 0 };
        let solution = solve(&self.graph, &self.costs, step, &options).unwrap();
        let plan = &solution.plan;
        let line = timeline(plan, &submissions(plan), &solution.part_seconds, &self.costs.devices);
        let promised = solution.prediction.seconds;
        assert!(
            (line.seconds - promised).abs() <= 1e-9 * promised,
            "{} s promised, {} s by its submissions",
            promised,
            line.seconds
        );
        promised
    }

    /// The seconds of the best plan, and how many plans there are.
    fn try_everything(&self) -> (f64, usize) {
        let candidates: Vec<Vec<Vec<PlacedPart>>> =
            (0..self.graph.nodes().len()).map(|idx| self.candidates(idx)).collect();
        let mut digits = vec![0; candidates.len()];
        let (mut best, mut n) = (f64::INFINITY, 0);
        loop {
            let placements: Vec<Vec<PlacedPart>> =
                digits.iter().zip(&candidates).map(|(&digit, candidates)| candidates[digit].clone()).collect();
            let seconds = self.part_seconds(&placements);
            let plan = Plan::new(Arc::clone(&self.graph), placements).unwrap();
            best = best.min(timeline(&plan, &submissions(&plan), &seconds, &self.costs.devices).seconds);
            n += 1;
            // The next combination, as a number is counted up.
            let Some(place) = (0..digits.len()).find(|&place| digits[place] + 1 < candidates[place].len()) else {
                return (best, n);
            };
            digits[..place].fill(0);
            digits[place] += 1;
        }
    }

    fn part_seconds(&self, placements: &[Vec<PlacedPart>]) -> Vec<f64> {
        let mut seconds = Vec::new();
        for (idx, placed) in placements.iter().enumerate() {
            let class = self.costs.class(&self.graph.op_spec(NodeId(idx)));
            let devices: DeviceSet = placed.iter().map(|placed| placed.device_idx).collect();
            seconds.extend(placed.iter().map(|placed| {
                let shape = PartShape {
                    class,
                    rows: self.costs.devices[placed.device_idx].padded_rows(placed.part.rows.len()),
                    past: placed.part.rows.start,
                    columns: placed.part.columns.len(),
                    order: placed.operand_order,
                    companions: devices.without(placed.device_idx),
                };
                self.costs.seconds(placed.device_idx, &shape).unwrap()
            }));
        }
        seconds
    }

    /// All ways to compute a node with cuts at multiples of 32, written down independently of the solver.
    fn candidates(&self, idx: usize) -> Vec<Vec<PlacedPart>> {
        let output = self.graph.tensor_desc(self.graph.node(NodeId(idx)).output);
        let op = &self.graph.node(NodeId(idx)).op;
        let (rows, columns) = (output.rows, output.columns);
        let n_devices = self.costs.devices.len();
        let part =
            |device: usize, rows: Range<usize>, columns: Range<usize>| PlacedPart::new(device, Part { rows, columns });
        let column_cuts = || (32..columns).step_by(32).filter(|_| op.split_rule().columns.is_some());
        let mut all: Vec<Vec<PlacedPart>> = Vec::new();
        for a in 0..n_devices {
            all.push(vec![part(a, 0..rows, 0..columns)]);
            let chunks = self.chunks(a, rows);
            if chunks.len() > 1 {
                all.push(chunks.into_iter().map(|rows| part(a, rows, 0..columns)).collect());
            }
            for b in a + 1..n_devices {
                for at in column_cuts() {
                    all.push(vec![part(a, 0..rows, 0..at), part(b, 0..rows, at..columns)]);
                    for c in b + 1..n_devices {
                        for end in column_cuts().filter(|&end| end > at) {
                            all.push(vec![
                                part(a, 0..rows, 0..at),
                                part(b, 0..rows, at..end),
                                part(c, 0..rows, end..columns),
                            ]);
                        }
                    }
                }
                // Devices of fixed shapes take the first rows.
                let is_fixed = |device: usize| !self.costs.devices[device].standard_rows.is_empty();
                let [first, second] = if is_fixed(b) && !is_fixed(a) { [b, a] } else { [a, b] };
                for at in (32..rows).step_by(32) {
                    let mut cut: Vec<PlacedPart> =
                        self.chunks(first, at).into_iter().map(|rows| part(first, rows, 0..columns)).collect();
                    cut.push(part(second, at..rows, 0..columns));
                    all.push(cut);
                    if is_fixed(first) {
                        for column in column_cuts() {
                            let mut cut: Vec<PlacedPart> =
                                self.chunks(first, at).into_iter().map(|rows| part(first, rows, 0..column)).collect();
                            cut.push(part(second, 0..at, column..columns));
                            cut.push(part(second, at..rows, 0..columns));
                            all.push(cut);
                        }
                    }
                }
            }
        }
        all
    }

    fn chunks(&self, device: usize, rows: usize) -> Vec<Range<usize>> {
        match (self.costs.devices[device].standard_rows.is_empty(), rows) {
            (true, _) | (false, 32 | 64) => std::iter::once(0..rows).collect(),
            (false, 96) => vec![0..64, 64..96],
            _ => panic!("the cases have no other number of rows"),
        }
    }
}
