//! Plans which processor computes which part of a model, and runs the plan.
