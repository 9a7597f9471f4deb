//! Damages of the configuration, the tokenizer and the chat template.

use std::fs;

use serde_json::json;

use crate::Case;
use crate::model::{change_config, tokenizer, write, write_template};

pub(crate) const CASES: &[Case] = &[
    // config.json and generation_config.json.
    Case {
        name: "configuration that is not JSON",
        damage: |folder| write(folder, "config.json", "{\"hidden_size\": 8,"),
        variant: "Json",
        mentions: &["config.json", "model configuration", "line 1"],
    },
    Case {
        name: "unknown architecture",
        damage: |folder| change_config(folder, "architectures", json!(["MambaForCausalLM"])),
        variant: "Unsupported",
        mentions: &["config.json", "`architectures`", "LlamaForCausalLM", "MambaForCausalLM"],
    },
    Case {
        name: "no heads",
        damage: |folder| change_config(folder, "num_attention_heads", json!(0)),
        variant: "BadValue",
        mentions: &["config.json", "`num_attention_heads`", "whole number from 1", "found 0"],
    },
    Case {
        name: "heads that do not divide",
        damage: |folder| change_config(folder, "num_key_value_heads", json!(3)),
        variant: "BadValue",
        mentions: &["config.json", "`num_key_value_heads`", "divisor", "found 3"],
    },
    Case {
        name: "features that do not divide",
        damage: |folder| change_config(folder, "num_attention_heads", json!(3)),
        variant: "BadValue",
        mentions: &["config.json", "`hidden_size`", "multiple of num_attention_heads (3)", "found 8"],
    },
    Case {
        name: "unknown position encoding",
        damage: |folder| change_config(folder, "rope_scaling", json!({"rope_type": "yarn", "factor": 4.0})),
        variant: "Unsupported",
        mentions: &["config.json", "`rope_scaling.rope_type`", "llama3", "yarn"],
    },
    Case {
        name: "quantised weights",
        damage: |folder| change_config(folder, "quantization_config", json!({"quant_method": "gptq"})),
        variant: "Unsupported",
        mentions: &["config.json", "`quantization_config`", "f32, f16 or bf16", "gptq"],
    },
    Case {
        name: "absurd vocabulary",
        damage: |folder| change_config(folder, "vocab_size", json!(1u64 << 60)),
        variant: "BadValue",
        mentions: &["config.json", "`vocab_size`", "16777216", "1152921504606846976"],
    },
    Case {
        name: "generation settings out of range",
        damage: |folder| write(folder, "generation_config.json", "{\"top_p\": 7}"),
        variant: "BadValue",
        mentions: &["generation_config.json", "`top_p`", "to 1", "found 7"],
    },
    // The tokenizer.
    Case {
        name: "no tokenizer",
        damage: |folder| fs::remove_file(folder.join("tokenizer.json")).expect("removable"),
        variant: "MissingFile",
        mentions: &["tokenizer.json", "tokenizers library", "nothing"],
    },
    Case {
        name: "tokenizer that is not JSON",
        damage: |folder| write(folder, "tokenizer.json", "<html>404</html>"),
        variant: "Tokenizer",
        mentions: &["tokenizer.json", "expected", "line 1"],
    },
    Case {
        name: "tokenizer of an unknown kind",
        damage: |folder| write(folder, "tokenizer.json", json!({"version": "9", "model": {"type": "X"}}).to_string()),
        variant: "Tokenizer",
        mentions: &["tokenizer.json", "expected", "found"],
    },
    Case {
        name: "tokenizer cut short inside of its decoder",
        damage: |folder| write(folder, "tokenizer.json", "{\"decoder\": {\"type\": \"Sequence\", \"decoders\": ["),
        variant: "Tokenizer",
        mentions: &["tokenizer.json", "expected", "EOF"],
    },
    Case {
        name: "tokenizer with more tokens than the model",
        damage: |folder| {
            let mut tokenizer = tokenizer();
            tokenizer["model"]["vocab"]["z"] = json!(16);
            write(folder, "tokenizer.json", tokenizer.to_string());
        },
        variant: "TokenizerVocabulary",
        mentions: &["tokenizer.json", "below 16", "vocab_size", "found 16"],
    },
    // The chat template.
    Case {
        name: "no template",
        damage: |folder| write(folder, "tokenizer_config.json", "{}"),
        variant: "MissingTemplate",
        mentions: &["tokenizer_config.json", "`chat_template`", "found none"],
    },
    Case {
        name: "template with a syntax error",
        damage: |folder| write_template(folder, "a\nb {% if %}"),
        variant: "TemplateSyntax",
        mentions: &["tokenizer_config.json", "`default`", "line 2", "syntax error"],
    },
    Case {
        name: "template that refuses the conversation",
        damage: |folder| {
            write_template(
                folder,
                "{% macro check(m) %}{{ raise_exception('No ' ~ m.role ~ '!') }}{% endmacro %}{{ check(messages[0]) }}",
            );
        },
        variant: "TemplateRefused",
        mentions: &["tokenizer_config.json", "`default`", "No user!"],
    },
    Case {
        name: "template that fails",
        damage: |folder| write_template(folder, "\n\n{{ messages[0].a.b.c }}"),
        variant: "TemplateFailed",
        mentions: &["tokenizer_config.json", "`default`", "line 3", "found"],
    },
    Case {
        name: "template that does not end",
        damage: |folder| {
            let nested = "{% for a in range(9999) %}".repeat(6) + &"{% endfor %}".repeat(6);
            write_template(folder, &nested);
        },
        variant: "TemplateLimit",
        mentions: &["tokenizer_config.json", "`default`", "steps"],
    },
    Case {
        name: "template that writes without end",
        damage: |folder| {
            let line = "{% set x = 'x' * 100000 %}{% for a in range(9999) %}{{ x }}{% endfor %}";
            write_template(folder, line);
        },
        variant: "TemplateLimit",
        mentions: &["tokenizer_config.json", "`default`", "bytes of text"],
    },
    Case {
        name: "template that calls itself",
        damage: |folder| write_template(folder, "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}"),
        variant: "TemplateFailed",
        mentions: &["tokenizer_config.json", "`default`", "recursion"],
    },
    Case {
        name: "template that is too long",
        damage: |folder| write(folder, "chat_template.jinja", "x".repeat(2 << 20)),
        variant: "TemplateLimit",
        mentions: &["chat_template.jinja", "`default`", "bytes of template"],
    },
    Case {
        name: "template that is a number",
        damage: |folder| write(folder, "tokenizer_config.json", "{\"chat_template\": 7}"),
        variant: "BadValue",
        mentions: &["tokenizer_config.json", "`chat_template`", "a template", "found 7"],
    },
];
