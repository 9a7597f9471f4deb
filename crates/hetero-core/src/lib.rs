//! The contract between models, scheduler and processors: tensors, operators, graphs, partitions, backends.
