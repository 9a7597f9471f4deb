//! Llama-family models on hetero: loading, tokenising, generating.
