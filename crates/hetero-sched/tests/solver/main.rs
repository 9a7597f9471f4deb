//! What the solver promises, checked on the paper's numbers, on small random graphs and on layers of Llama-8B.

mod beside;
mod exhaustive;
mod explained;
mod llama;
mod models;
mod paper_table;
mod phone;
