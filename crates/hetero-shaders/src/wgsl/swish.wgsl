fn swish(gate: f32) -> f32 {
    // Beyond 88 the exponential leaves f32, which WGSL need not handle; the quotient is as good as zero there.
    return gate / (1.0 + exp(min(-gate, 88.0)));
}
