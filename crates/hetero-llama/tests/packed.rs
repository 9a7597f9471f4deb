//! A checkpoint that `hetero quantize` wrote gives the same logits as quantising while loading, bit by bit.

mod common;

use common::{Expected, fixture, load, logits};
use hetero_core::WeightFormat;
use hetero_llama::packed::quantize;
use hetero_llama::{LlamaError, ModelOptions, ModelSource};

#[test]
fn packed_checkpoints_load_to_the_same_model() {
    // Biases, packed queries, keys and values, a tied head, several shards.
    for name in ["llama-bias", "internlm2", "llama32-tied", "llama-sharded", "qwen2"] {
        let folder = fixture(name);
        let tokens = Expected::read(&folder, "expected.safetensors").tokens;
        for format in WeightFormat::ALL {
            let out = tempfile::tempdir().expect("a folder");
            let source = ModelSource::Folder(folder.clone());
            let mut done = 0;
            let mut progress = |progress: hetero_llama::loader::LoadProgress<'_>| done = progress.done;
            let facts = quantize(&source, format, out.path(), 2, &mut progress).expect("a packed checkpoint");
            assert_eq!(done, facts.written_bytes);
            let packed = logits(&load(out.path(), None), &tokens);
            let quantised = logits(&load(&folder, Some(format)), &tokens);
            assert_eq!(packed, quantised, "{name} {format}");
        }
    }
}

#[test]
fn misuse_is_told() {
    let folder = fixture("llama3-gqa");
    let source = ModelSource::Folder(folder);
    let out = tempfile::tempdir().expect("a folder");
    quantize(&source, WeightFormat::W4G32, out.path(), 1, &mut |_| {}).expect("a packed checkpoint");
    let again = quantize(&source, WeightFormat::W4G32, out.path(), 1, &mut |_| {}).unwrap_err();
    assert!(matches!(again, LlamaError::FolderNotEmpty { .. }), "{again}");

    let packed = ModelSource::Folder(out.path().to_path_buf());
    let elsewhere = tempfile::tempdir().expect("a folder");
    let twice = quantize(&packed, WeightFormat::W8G32, elsewhere.path(), 1, &mut |_| {}).unwrap_err();
    assert!(matches!(twice, LlamaError::AlreadyPacked { .. }), "{twice}");

    let options = ModelOptions { weights: Some(WeightFormat::W8G32), ..ModelOptions::default() };
    let otherwise = hetero_llama::Model::load(packed, &options, &mut |_| {}).unwrap_err();
    assert!(matches!(otherwise, LlamaError::PackedOtherwise { .. }), "{otherwise}");
    assert!(otherwise.is_bad_input() && !otherwise.fix().is_empty());

    // A damaged file is told too: cut it off in the last tensor.
    let file = out.path().join("model.safetensors");
    let bytes = std::fs::read(&file).expect("the file");
    std::fs::write(&file, &bytes[..bytes.len() - 1]).expect("a shorter file");
    let packed = ModelSource::Folder(out.path().to_path_buf());
    let damaged = hetero_llama::Model::load(packed, &ModelOptions::default(), &mut |_| {}).unwrap_err();
    assert!(damaged.is_bad_input(), "{damaged}");
}
