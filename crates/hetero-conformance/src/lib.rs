//! The one test suite that every hetero backend passes.
