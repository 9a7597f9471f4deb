//! The command line of hetero.

fn main() {}
