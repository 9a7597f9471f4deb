//! The feed-forward block of a decoder layer: norm, gate and up, SwiGLU, down, residual.

use hetero_core::{DType, Op, ValueId};

use super::{LayerWeight, ModelBuilder};

/// Adds the block; `x` and the result are `[positions, hidden]`.
pub(super) fn build(b: &mut ModelBuilder<'_>, x: ValueId) -> ValueId {
    let config = b.config;
    let (hidden, intermediate) = (config.hidden, config.intermediate);
    let key = b.key(LayerWeight::FeedForwardNorm);
    let normed = b.norm("ffn_norm", key, x);
    let gate = linear(b, "ffn_gate", normed, [LayerWeight::Gate, LayerWeight::GateBias], [intermediate, hidden]);
    let up = linear(b, "ffn_up", normed, [LayerWeight::Up, LayerWeight::UpBias], [intermediate, hidden]);
    let swiglu = Op::Swiglu { features: intermediate };
    let gated = b.graph.node("ffn_swiglu", swiglu, &[gate, up], &[], DType::F32);
    let down = linear(b, "ffn_down", gated, [LayerWeight::Down, LayerWeight::DownBias], [hidden, intermediate]);
    b.add("ffn_residual", x, down)
}

/// A linear operator with the matrix and, where the model has one, the bias.
fn linear(
    b: &mut ModelBuilder<'_>,
    name: &'static str,
    x: ValueId,
    [matrix, bias]: [LayerWeight; 2],
    shape: [usize; 2],
) -> ValueId {
    let matrix = b.key(matrix);
    let bias = b.config.mlp_bias.then(|| b.key(bias));
    b.linear(name, x, matrix, bias, shape)
}
