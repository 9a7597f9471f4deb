// [row, quadruple of inputs]
var<workgroup> inputs: array<vec4<f32>, TILE_ROWS * 8u>;
// [input, quadruple of columns]
var<workgroup> numbers: array<vec4<f32>, 32u * 16u>;
