//! Chat templates: any program ends, within its limits and without a panic.
#![no_main]

use std::path::Path;

use hetero_llama::chat_template::{ChatTemplate, Message};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let file = Path::new("tokenizer_config.json");
    let messages = [Message::new("system", "Be brief."), Message::new("user", "  Hi <é>\n")];
    // As a template file, and as the JSON that holds one.
    for template in [
        ChatTemplate::from_files((None, file), (Some(bytes), Path::new("chat_template.jinja"))),
        ChatTemplate::from_tokenizer_config(bytes, file),
    ] {
        let Ok(template) = template else {
            continue;
        };
        let _ = template.with_fixed_time(0).render(&messages, true);
    }
});
