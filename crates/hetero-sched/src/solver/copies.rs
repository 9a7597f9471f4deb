//! What a plan copies between memories, where devices do not reach each other's tensors.
//!
//! The host copies each rectangle that a part reads from another memory, once for that memory, before the part is
//! submitted; outputs go to the first memory at the end (`crate::executor`). Of a cache only the positions of the step
//! are copied. It takes what was measured for each copy and each byte, out of one memory and into the other, and nothing
//! else is assumed to go on meanwhile.

use hetero_core::{Graph, NodeId, Op, Part, Rows, StepParams, ValueId, ValueKind};

use crate::cost::DeviceCosts;
use crate::plan::{PlacedPart, Plan};

/// Whether devices compute in several memories.
pub(super) fn are_needed(devices: &[DeviceCosts]) -> bool {
    devices.iter().any(|device| device.memory != devices[0].memory)
}

/// Seconds for which the host copies in a step.
pub(super) fn seconds(plan: &Plan, devices: &[DeviceCosts], step: StepParams) -> f64 {
    if !are_needed(devices) {
        return 0.0;
    }
    let graph = plan.graph();
    let mut writer: Vec<Option<NodeId>> = vec![None; graph.values().len()];
    // For each value, what has been copied from which part into which memory.
    let mut copied: Vec<Vec<(usize, usize, Part)>> = vec![Vec::new(); graph.values().len()];
    let mut seconds = 0.0;
    let mut read = |writer: Option<NodeId>, value: ValueId, wanted: &Part, to: &DeviceCosts| {
        // What the caller writes lies in the memory of the first device.
        let of_caller = [PlacedPart::new(0, Part { rows: 0..usize::MAX, columns: 0..usize::MAX })];
        let placed = writer.map_or(&of_caller[..], |node| &plan.placements()[node.0]);
        for (part_idx, PlacedPart { device_idx, part, .. }) in placed.iter().enumerate() {
            let from = &devices[*device_idx];
            let Some(common) = common(part, wanted).filter(|_| from.memory != to.memory) else { continue };
            let known = &mut copied[value.0];
            let is_there = |(its, memory, there): &(usize, usize, Part)| {
                (*its, *memory) == (part_idx, to.memory) && self::common(there, &common).as_ref() == Some(&common)
            };
            if !known.iter().any(is_there) {
                let bytes = bytes(graph, writer, value, &common, step);
                seconds += from.copy_seconds + to.copy_seconds;
                seconds += bytes * (from.copy_seconds_per_byte + to.copy_seconds_per_byte);
                known.push((part_idx, to.memory, common));
            }
        }
    };
    for (idx, placed) in plan.placements().iter().enumerate() {
        let node = graph.node(NodeId(idx));
        for PlacedPart { device_idx, part, .. } in placed {
            for (input_idx, &input) in node.inputs.iter().enumerate() {
                let wanted = graph.input_part(NodeId(idx), input_idx, part);
                read(writer[input.0], input, &wanted, &devices[*device_idx]);
            }
        }
        writer[node.output.0] = Some(NodeId(idx));
    }
    let outputs = (0..graph.values().len()).map(ValueId);
    for value in outputs.filter(|value| graph.value(*value).kind == ValueKind::Output) {
        let desc = graph.tensor_desc(value);
        read(writer[value.0], value, &Part::whole(desc.rows, desc.columns), &devices[0]);
    }
    seconds
}

/// Bytes of a rectangle of a value in a step.
fn bytes(graph: &Graph, writer: Option<NodeId>, value: ValueId, part: &Part, step: StepParams) -> f64 {
    let desc = graph.tensor_desc(value);
    let size = desc.dtype.size() as f64;
    let rows = match (graph.value(value).kind, writer.map(|node| &graph.node(node).op)) {
        // Rows of a cache are the positions of one head after the other.
        (ValueKind::State, Some(Op::CacheWrite { context, .. })) => {
            part.rows.len() as f64 / *context as f64 * step.rows as f64
        }
        _ if graph.value(value).rows == Rows::Positions => {
            part.rows.end.min(step.rows).saturating_sub(part.rows.start) as f64
        }
        _ => part.rows.len() as f64,
    };
    rows * part.columns.len() as f64 * size
}

/// What two rectangles have in common, if anything.
fn common(a: &Part, b: &Part) -> Option<Part> {
    let rows = a.rows.start.max(b.rows.start)..a.rows.end.min(b.rows.end);
    let columns = a.columns.start.max(b.columns.start)..a.columns.end.min(b.columns.end);
    (!rows.is_empty() && !columns.is_empty()).then_some(Part { rows, columns })
}

/// Seconds that copying one activation of a step takes as a rule, by which a search knows that crossing is not free.
pub(super) fn usual_seconds(graph: &Graph, device: &DeviceCosts, step: StepParams) -> f64 {
    let mut widths: Vec<usize> = graph.nodes().iter().map(|node| graph.tensor_desc(node.output).columns).collect();
    widths.sort_unstable();
    let width = widths.get(widths.len() / 2).copied().unwrap_or(0);
    device.copy_seconds + (step.rows * width * 4) as f64 * device.copy_seconds_per_byte
}
