//! tokenizer.json: whatever is accepted turns text into ids and ids into text without a panic.
#![no_main]

use std::path::Path;

use hetero_llama::text_stream::TextStream;
use hetero_llama::tokenizer::Tokenizer;
use libfuzzer_sys::fuzz_target;

fuzz_target!(
    // The tokenizers library panics on some files, which our tokenizer catches. The fuzzer's hook would end the process
    // before that; a panic that is not caught still ends it afterwards.
    init: std::panic::set_hook(Box::new(|_| {})),
    |bytes: &[u8]| read_and_use(bytes)
);

fn read_and_use(bytes: &[u8]) {
    let Ok(tokenizer) = Tokenizer::from_bytes(bytes, Path::new("tokenizer.json"), 1 << 20) else {
        return;
    };
    let ids = tokenizer.encode("Hello, 世界! 🦀\n a", true).unwrap_or_default();
    let Ok(mut stream) = TextStream::new(&tokenizer, &[]) else {
        return;
    };
    for id in ids.into_iter().chain(0..64) {
        if stream.push(id).is_err() {
            return;
        }
    }
    let _ = stream.finish();
}
