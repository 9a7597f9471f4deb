//! The matrix product `y = x Wᵀ` on each kind of processor.
//!
//! `m` counts rows of the activations, `n` output features (rows of the weight matrix), `k` input features.

use hetero_core::OperandOrder;

use super::{Demand, padded};
use crate::soc::{CpuKernels, GpuKernels, MatrixUnits, Processor, Soc};

/// A matrix product, apart from who computes it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Product {
    /// Rows of the activations.
    pub m: usize,
    /// Output features.
    pub n: usize,
    /// Input features.
    pub k: usize,
    /// Whether the weights have to be expanded before they can be multiplied.
    pub quantized: bool,
    /// Bits of a weight in memory, its share of the scale included.
    pub weight_bits: f64,
    /// Bytes of an element of the activations.
    pub activation_bytes: f64,
    /// Bytes of an element of the output.
    pub output_bytes: f64,
}

impl Product {
    fn operations(&self) -> f64 {
        2.0 * self.weights() * self.m as f64
    }

    fn weights(&self) -> f64 {
        self.n as f64 * self.k as f64
    }

    fn weight_bytes(&self) -> f64 {
        self.weights() * self.weight_bits / 8.0
    }

    fn activation_and_output_bytes(&self) -> f64 {
        self.m as f64 * (self.k as f64 * self.activation_bytes + self.n as f64 * self.output_bytes)
    }
}

/// A product on the CPU: weights are read once and expanded on the way.
pub fn cpu_product(cpu: &Processor<CpuKernels>, product: &Product) -> Demand {
    let compute_seconds = product.operations() / cpu.kernels.operations_per_second;
    let bytes = product.weight_bytes() + product.activation_and_output_bytes();
    Demand::streaming(compute_seconds, bytes, cpu.bytes_per_second, product.operations())
}

/// A product on the GPU, with the faster of two kernels.
///
/// For few rows the weights are read once a row and multiplied as they come. For many rows they are first expanded
/// to half precision in memory; then operations per second grow with the size until they reach the plateau.
pub fn gpu_product(gpu: &Processor<GpuKernels>, product: &Product) -> Demand {
    let multiply_seconds = product.operations() / gpu.kernels.operations_per_second;
    let demand = |compute_seconds: f64, weight_bytes: f64| {
        let bytes = weight_bytes + product.activation_and_output_bytes();
        Demand::streaming(compute_seconds, bytes, gpu.bytes_per_second, product.operations())
    };
    let few_rows = demand(multiply_seconds, product.m as f64 * product.weight_bytes());
    let many_rows = if product.quantized {
        let expand_seconds = product.weights() / gpu.kernels.expanded_weights_per_second;
        // The expanded weights are written and read again, two bytes each.
        demand(multiply_seconds + expand_seconds, product.weight_bytes() + 4.0 * product.weights())
    } else {
        demand(multiply_seconds, product.weight_bytes())
    };
    if few_rows.alone_seconds() <= many_rows.alone_seconds() { few_rows } else { many_rows }
}

/// What of an NPU a product meets: the array with the units that suit it, and the way from memory.
#[derive(Clone, Debug, PartialEq)]
pub struct NpuArray {
    /// Rows and columns of the array.
    pub tile: usize,
    /// The units that compute.
    pub units: MatrixUnits,
    /// Weights per second from memory into the array's form; infinite where that is no limit.
    pub unpacked_weights_per_second: f64,
    /// Input features up to which the array works at full speed.
    pub full_speed_columns: f64,
    /// How fast it slows down beyond that.
    pub depth_power: f64,
    /// Bytes per second from and to memory.
    pub bytes_per_second: f64,
}

impl NpuArray {
    /// The array of a system as it computes this product: quantised weights and one row go to the integer units,
    /// because the float units do not take 4-bit weights then.
    pub fn of(soc: &Soc, product: &Product) -> NpuArray {
        let kernels = &soc.npu.kernels;
        let integer = product.quantized && product.m == 1;
        NpuArray {
            tile: soc.npu_limits.tile,
            units: if integer { kernels.integer.clone() } else { kernels.float.clone() },
            unpacked_weights_per_second: if product.quantized {
                kernels.unpacked_weights_per_second
            } else {
                f64::INFINITY
            },
            full_speed_columns: kernels.full_speed_columns,
            depth_power: kernels.depth_power,
            bytes_per_second: soc.npu.bytes_per_second,
        }
    }
}

/// A product on the NPU.
///
/// One operand stays in the array, tile by tile, and the other streams through: a stationary tile costs a stall and
/// as many steps as the other operand has rows. With stationary activations there are `k/tile * m/tile` tiles and `n`
/// streamed rows, with stationary weights `k/tile * n/tile` tiles and `m` streamed rows, all dimensions filled up to
/// the tile. So latency is a staircase in each dimension, and the operand with fewer rows should stay.
///
/// Weights come through a unit that unpacks them at a limited rate while the array multiplies. When the operands have
/// more columns than the array works with at full speed, the two take turns, and both take longer in proportion.
pub fn npu_product(array: &NpuArray, product: &Product, order: OperandOrder) -> Demand {
    let fill = |n: usize| padded(n, array.tile) as f64;
    let (m, n, k) = (fill(product.m), fill(product.n), fill(product.k));
    let tile = array.tile as f64;
    let (stationary_rows, streamed_rows) = match order {
        OperandOrder::ActivationStationary => (m, n),
        OperandOrder::WeightStationary => (n, m),
    };
    let stationary_tiles = (k / tile) * (stationary_rows / tile);
    // A streamed row of one tile's width meets `tile` columns of the array: two operations for each element.
    let row_seconds = 2.0 * tile * tile / array.units.operations_per_second;
    let matrix_seconds = stationary_tiles * (array.units.stall_rows + streamed_rows) * row_seconds;
    let unpack_seconds = n * k / array.unpacked_weights_per_second;
    let is_deep = k > array.full_speed_columns;
    let compute_seconds = if is_deep {
        (matrix_seconds + unpack_seconds) * (k / array.full_speed_columns).powf(array.depth_power)
    } else {
        matrix_seconds.max(unpack_seconds)
    };
    // Weights lie in memory as the compiler has laid them out, in whole tiles; activations are filled up on the chip.
    let bytes = n * k * product.weight_bits / 8.0 + product.activation_and_output_bytes();
    Demand::streaming(compute_seconds, bytes, array.bytes_per_second, 2.0 * m * n * k)
}
