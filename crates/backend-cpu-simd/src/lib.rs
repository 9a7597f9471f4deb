//! The CPU as a hetero backend: SIMD kernels chosen at run time and a worker pool.
