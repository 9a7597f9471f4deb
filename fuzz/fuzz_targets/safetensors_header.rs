//! Weight files: whatever is accepted can be read to its last byte.
#![no_main]

use std::path::Path;

use hetero_llama::weights::{Checkpoint, MappedFile, read_entries};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(entries) = read_entries(bytes, Path::new("model.safetensors")) else {
        return;
    };
    for entry in &entries {
        assert!(entry.bytes.start <= entry.bytes.end && entry.bytes.end <= bytes.len());
        if let Ok(dtype) = &entry.dtype {
            let size = if entry.shape.contains(&0) { 0 } else { entry.shape.iter().product::<usize>() * dtype.size() };
            assert_eq!(size, entry.bytes.len());
        }
    }
    let file = MappedFile::from_shared("model.safetensors", bytes.into());
    let checkpoint = Checkpoint::from_file(file).expect("it was accepted above");
    assert_eq!(checkpoint.names().count(), entries.len());
    for name in checkpoint.names() {
        let Ok(Some(tensor)) = checkpoint.tensor(name) else {
            continue;
        };
        if tensor.bytes().is_empty() {
            continue;
        }
        let mut row = vec![0.0; tensor.columns()];
        tensor.read_row_f32(0, &mut row);
        tensor.read_row_f32(tensor.rows() - 1, &mut row);
    }
});
