//! What the simulated processors compute.
//!
//! CPU and GPU compute what the reference says, as float kernels do. The NPU computes linear operators its own way
//! ([`linear`]) and everything else as the reference does, on its vector unit.

mod linear;

use std::collections::BTreeSet;

use hetero_core::{Bindings, DeviceKind, Op, Part, Segment, StepParams, reference};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

/// Whose way of computing.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Arithmetic {
    pub(crate) kind: DeviceKind,
    /// Width of the NPU's array.
    pub(crate) tile: usize,
}

impl Arithmetic {
    /// Computes a segment. The bindings have been checked.
    pub(crate) fn run_segment(self, segment: &Segment, bindings: &mut Bindings, step: StepParams) {
        for node in &segment.nodes {
            if self.kind != DeviceKind::Npu || !linear::is_own(segment, node) {
                reference::run_node(segment, node, bindings, step);
                continue;
            }
            let units = linear::Units::of(segment, node);
            reference::with_operands(segment, node, bindings, step, |inputs, output, part| {
                linear::run(units, self.tile, inputs[0], node, output, part);
            });
        }
    }
}

/// Makes `n` values wrong in what the last node wrote, or in all when it wrote fewer: they get the other sign, and
/// zeros become one. A segment that ends with writing a cache is spoilt in the node before.
pub(crate) fn spoil(segment: &Segment, bindings: &mut Bindings, step: StepParams, n: usize, seed: u64) {
    let mut nodes = segment.nodes.iter().rev();
    let Some(node) = nodes.find(|node| !matches!(segment.graph.node(node.node).op, Op::CacheWrite { .. })) else {
        return;
    };
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    reference::with_operands(segment, node, bindings, step, |_, output, part| {
        for (row, column) in random_elements(part, n, &mut random) {
            let mut value = [0.0];
            output.read_f32(row, column, &mut value);
            value[0] = if value[0] == 0.0 { 1.0 } else { -value[0] };
            output.write_f32(row, column, &value);
        }
    });
}

fn random_elements(part: &Part, n: usize, random: &mut ChaCha8Rng) -> BTreeSet<(usize, usize)> {
    let mut chosen = BTreeSet::new();
    let n = n.min(part.area());
    while chosen.len() < n {
        let idx = (random.next_u64() % part.area() as u64) as usize;
        // Where it is taken already, the next that is not: so that even all of them are found.
        let mut tries = (0..part.area()).map(|step| (idx + step) % part.area());
        let element =
            |idx: usize| (part.rows.start + idx / part.columns.len(), part.columns.start + idx % part.columns.len());
        chosen.extend(tries.find_map(|idx| Some(element(idx)).filter(|element| !chosen.contains(element))));
    }
    chosen
}
