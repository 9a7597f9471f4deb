//! Criterion benches of hetero; `cargo xtask bench` runs them.
