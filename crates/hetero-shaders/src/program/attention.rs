//! Attention: which kernel goes by rows and by the length of the cache.
//!
//! | rows | cache | kernel |
//! |---|---|---|
//! | up to 4 | up to 256 positions | a workgroup for each row and head |
//! | up to 4 | longer | tiles of the queries that share keys, split among workgroups over the keys, and what puts the parts together |
//! | more | any | tiles of queries |
//!
//! All are the same for every part of an output.

use hetero_core::{Op, SegmentNode};

use super::{Buffers, Builder, Choice, Dispatch, Operand, Scratch, element};
use crate::knobs::Variant;
use crate::{Element, Kernel, Params, Step};

/// Rows up to which the keys are split instead of the rows.
const FEW_ROWS: u32 = 4;

/// From so many keys on they are split, counted as [`Step::most_keys`].
const SPLIT_KEYS: u32 = 512;

impl<S: Buffers> Builder<'_, S> {
    /// Adds the dispatches of attention.
    pub(super) fn attention(&mut self, segment_node: &SegmentNode, params: Params) {
        let graph = &self.segment.graph;
        let node = graph.node(segment_node.node);
        let Op::Attention { heads, kv_heads, head_dim, context, scale } = node.op else {
            unreachable!("{} is no attention", node.op.name())
        };
        let [queries, keys, values] = [0, 1, 2].map(|idx| element(graph.value(node.inputs[idx]).dtype));
        let output = element(graph.value(node.output).dtype);
        let group_heads = (heads / kv_heads) as u32;
        let head_dim = head_dim as u32;
        let params = Params { group_heads, head_dim, context: context as u32, scale, ..params };
        let tiled = |tile: u32, output: Element, is_split: bool| Kernel::AttentionTiled {
            queries,
            keys,
            values,
            output,
            head_dim,
            tile: Kernel::QUERY_TILES.into_iter().find(|size| *size >= tile).unwrap_or(32),
            is_split,
        };
        let plain = Kernel::Attention { queries, keys, values, output };
        let any_keys = [0, u32::MAX];
        let (few, many) = ([0, FEW_ROWS], [FEW_ROWS + 1, u32::MAX]);
        let knobs = self.buffers.knobs();
        let may_tile = knobs.allows("attention_tiled", Variant::Tiled);
        let may_split = may_tile
            && knobs.allows("attention_tiled", Variant::Split)
            && Step::new(0, context as u32).most_keys >= SPLIT_KEYS;

        let short = if may_split { [0, SPLIT_KEYS - 1] } else { any_keys };
        let mut choices = vec![Choice { rows: few, keys: short, kernel: plain }];
        if may_tile {
            // Tiles that few rows leave half empty are the smaller ones.
            let small = 16 / group_heads;
            if small > FEW_ROWS {
                let kernel = tiled(16, output, false);
                choices.push(Choice { rows: [many[0], small], keys: any_keys, kernel });
            }
            choices.push(Choice {
                rows: [many[0].max(small + 1), many[1]],
                keys: any_keys,
                kernel: tiled(32, output, false),
            });
        } else {
            choices.push(Choice { rows: many, keys: any_keys, kernel: plain });
        }
        let values: Vec<Operand<S::Buffer>> = node.inputs.iter().map(|&value| Operand::Value(value)).collect();
        let outputs = vec![Operand::Value(node.output)];
        self.dispatches.push(Dispatch { choices, params, outputs: outputs.clone(), inputs: values.clone() });
        if !may_split {
            return;
        }

        let long = [SPLIT_KEYS, u32::MAX];
        let few_rows = FEW_ROWS.min(graph.capacity() as u32);
        let sums = u64::from(Step::MAX_SPLITS) * u64::from(head_dim + 4) * 4;
        let scratch = self.scratch_for(Scratch::Attention, u64::from(few_rows) * heads as u64 * sums);
        let one = Choice { rows: [0, 1], keys: long, kernel: tiled(group_heads, Element::F32, true) };
        let several =
            Choice { rows: [2, FEW_ROWS], keys: long, kernel: tiled(group_heads * FEW_ROWS, Element::F32, true) };
        self.dispatches.push(Dispatch {
            choices: vec![one, several],
            params,
            outputs: vec![Operand::Scratch(scratch)],
            inputs: values,
        });
        let merge = Choice { rows: few, keys: long, kernel: Kernel::AttentionMerge { output } };
        self.dispatches.push(Dispatch {
            choices: vec![merge],
            params,
            outputs,
            inputs: vec![Operand::Scratch(scratch)],
        });
    }
}
