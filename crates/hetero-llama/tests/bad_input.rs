//! Every class of broken model folder gives a typed error that names the file, the place, what was expected and what
//! was found, and says what to do.
//!
//! Each case breaks one thing of a small valid model and opens all of it.

use std::fs;
use std::path::Path;

use hetero_llama::LlamaError;
use hetero_llama::chat_template::{ChatTemplate, Message};
use hetero_llama::config::ModelConfig;
use hetero_llama::generation_config::GenerationConfig;
use hetero_llama::tokenizer::Tokenizer;
use hetero_llama::weights::{Checkpoint, ModelTensors};
use serde_json::{Value, json};

/// Opens everything that a model folder has, as a program would, and renders one prompt.
fn open(folder: &Path) -> Result<(), LlamaError> {
    let config_file = folder.join("config.json");
    let checkpoint = Checkpoint::open(folder)?;
    let config = ModelConfig::parse(&fs::read(&config_file).expect("readable"), &config_file)?;
    ModelTensors::resolve(&checkpoint, &config)?;
    GenerationConfig::open(folder, &config)?;
    let tokenizer = Tokenizer::open(&folder.join("tokenizer.json"), config.vocab)?;
    let prompt = ChatTemplate::open(folder)?.render(&[Message::new("user", "ab")], true)?;
    tokenizer.encode(&prompt, false)?;
    Ok(())
}

const VOCAB: usize = 16;
const HIDDEN: usize = 8;
const INTERMEDIATE: usize = 12;

fn config() -> Value {
    json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": HIDDEN,
        "intermediate_size": INTERMEDIATE, "num_hidden_layers": 1, "num_attention_heads": 2,
        "num_key_value_heads": 1, "vocab_size": VOCAB, "max_position_embeddings": 64, "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0, "bos_token_id": 1, "eos_token_id": 2, "torch_dtype": "float32",
    })
}

/// Name, dtype and shape of every tensor.
fn tensors() -> Vec<(String, &'static str, Vec<usize>)> {
    let layer = |name: &str| format!("model.layers.0.{name}.weight");
    let f32 = |name: String, shape: &[usize]| (name, "F32", shape.to_vec());
    vec![
        f32("model.embed_tokens.weight".into(), &[VOCAB, HIDDEN]),
        f32(layer("input_layernorm"), &[HIDDEN]),
        f32(layer("self_attn.q_proj"), &[HIDDEN, HIDDEN]),
        f32(layer("self_attn.k_proj"), &[4, HIDDEN]),
        f32(layer("self_attn.v_proj"), &[4, HIDDEN]),
        f32(layer("self_attn.o_proj"), &[HIDDEN, HIDDEN]),
        f32(layer("post_attention_layernorm"), &[HIDDEN]),
        f32(layer("mlp.gate_proj"), &[INTERMEDIATE, HIDDEN]),
        f32(layer("mlp.up_proj"), &[INTERMEDIATE, HIDDEN]),
        f32(layer("mlp.down_proj"), &[HIDDEN, INTERMEDIATE]),
        f32("model.norm.weight".into(), &[HIDDEN]),
        f32("lm_head.weight".into(), &[VOCAB, HIDDEN]),
    ]
}

fn element_bytes(dtype: &str) -> usize {
    match dtype {
        "F8_E4M3" => 1,
        "F16" | "BF16" => 2,
        "F32" => 4,
        "I64" => 8,
        other => panic!("{other}"),
    }
}

/// The header of a safetensors file as JSON, and the number of data bytes behind it.
fn header(tensors: &[(String, &'static str, Vec<usize>)]) -> (serde_json::Map<String, Value>, usize) {
    let mut end = 0;
    let mut header = serde_json::Map::new();
    for (name, dtype, shape) in tensors {
        let start = end;
        end += shape.iter().product::<usize>() * element_bytes(dtype);
        header.insert(
            name.clone(),
            json!({"dtype": dtype, "shape": shape, "data_offsets": [start, end]}),
        );
    }
    (header, end)
}

fn write_weights(path: &Path, header: &serde_json::Map<String, Value>, n_data_bytes: usize) {
    let text = Value::Object(header.clone()).to_string();
    let mut bytes = (text.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(text.as_bytes());
    bytes.resize(bytes.len() + n_data_bytes, 0);
    fs::write(path, bytes).expect("writable");
}

fn tokenizer() -> Value {
    json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null, "pre_tokenizer": null,
        "post_processor": null, "decoder": null, "added_tokens": [],
        "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "c": 2}, "merges": []},
    })
}

fn write(folder: &Path, name: &str, content: impl AsRef<[u8]>) {
    fs::write(folder.join(name), content).expect("writable");
}

fn write_template(folder: &Path, template: &str) {
    write(folder, "tokenizer_config.json", json!({"chat_template": template}).to_string());
}

fn write_valid(folder: &Path) {
    write(folder, "config.json", config().to_string());
    write(folder, "tokenizer.json", tokenizer().to_string());
    write(folder, "generation_config.json", json!({"eos_token_id": 2, "do_sample": false}).to_string());
    write_template(folder, "{% for m in messages %}{{ m.content }}{% endfor %}");
    let (header, n_data_bytes) = header(&tensors());
    write_weights(&folder.join("model.safetensors"), &header, n_data_bytes);
}

fn change_config(folder: &Path, key: &str, value: Value) {
    let mut config = config();
    config[key] = value;
    write(folder, "config.json", config.to_string());
}

/// Changes the description of one tensor in the header and nothing else.
fn change_header(folder: &Path, tensor: &str, change: impl FnOnce(&mut Value)) {
    let (mut header, n_data_bytes) = header(&tensors());
    change(header.get_mut(tensor).expect("a tensor"));
    write_weights(&folder.join("model.safetensors"), &header, n_data_bytes);
}

/// Changes the list of tensors and writes a sound file of it.
fn change_tensors(folder: &Path, change: impl FnOnce(&mut Vec<(String, &'static str, Vec<usize>)>)) {
    let mut tensors = tensors();
    change(&mut tensors);
    let (header, n_data_bytes) = header(&tensors);
    write_weights(&folder.join("model.safetensors"), &header, n_data_bytes);
}

/// Replaces the one weight file by an index and, where `shard` is a plain name, a shard.
fn split(folder: &Path, weight_map: Value) {
    fs::rename(folder.join("model.safetensors"), folder.join("shard-1.safetensors")).expect("writable");
    write(folder, "model.safetensors.index.json", json!({"metadata": {}, "weight_map": weight_map}).to_string());
}

fn whole_weight_map(shard: &str) -> Value {
    tensors().into_iter().map(|(name, _, _)| (name, json!(shard))).collect::<serde_json::Map<_, _>>().into()
}

struct Case {
    name: &'static str,
    /// What is done to a valid folder.
    damage: fn(&Path),
    /// The variant, as its `Debug` begins.
    variant: &'static str,
    /// What the message has to contain.
    mentions: &'static [&'static str],
}

const CASES: &[Case] = &[
    // The folder and its files.
    Case {
        name: "missing folder",
        damage: |folder| fs::remove_dir_all(folder).expect("removable"),
        variant: "MissingFile",
        mentions: &["model", "Hugging Face model folder", "nothing"],
    },
    Case {
        name: "a file in place of the folder",
        damage: |folder| {
            fs::remove_dir_all(folder).expect("removable");
            fs::write(folder, "x").expect("writable");
        },
        variant: "WrongFileKind",
        mentions: &["model", "folder", "a file"],
    },
    Case {
        name: "no weights",
        damage: |folder| fs::remove_file(folder.join("model.safetensors")).expect("removable"),
        variant: "MissingFile",
        mentions: &["model.safetensors", "safetensors", "nothing"],
    },
    Case {
        name: "only pickle weights",
        damage: |folder| {
            fs::rename(folder.join("model.safetensors"), folder.join("pytorch_model.bin")).expect("writable")
        },
        variant: "WrongFileKind",
        mentions: &["pytorch_model.bin", "model.safetensors", "pickle"],
    },
    Case {
        name: "only a GGUF file",
        damage: |folder| fs::rename(folder.join("model.safetensors"), folder.join("m.gguf")).expect("writable"),
        variant: "WrongFileKind",
        mentions: &["m.gguf", "model.safetensors", "not supported yet"],
    },
    Case {
        name: "a folder in place of the weights",
        damage: |folder| {
            fs::remove_file(folder.join("model.safetensors")).expect("removable");
            fs::create_dir(folder.join("model.safetensors")).expect("writable");
        },
        variant: "WrongFileKind",
        mentions: &["model.safetensors", "weights", "a folder"],
    },
    Case {
        name: "weights that are an LFS pointer",
        damage: |folder| {
            let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 4976698672\n";
            write(folder, "model.safetensors", pointer);
        },
        variant: "LfsPointer",
        mentions: &["model.safetensors", "weights", "Git LFS pointer"],
    },
    Case {
        name: "a tokenizer that is an LFS pointer",
        damage: |folder| write(folder, "tokenizer.json", "version https://git-lfs.github.com/spec/v1\n"),
        variant: "LfsPointer",
        mentions: &["tokenizer.json", "Git LFS pointer"],
    },
    // The frame of a safetensors file.
    Case {
        name: "empty weights",
        damage: |folder| write(folder, "model.safetensors", ""),
        variant: "WeightsHeader",
        mentions: &["model.safetensors", "at least 8 bytes", "0 bytes"],
    },
    Case {
        name: "header length of 2^64 - 1",
        damage: |folder| write(folder, "model.safetensors", [0xff; 64]),
        variant: "WeightsHeader",
        mentions: &["model.safetensors", "at most 56 bytes", "18446744073709551615"],
    },
    Case {
        name: "header longer than the file",
        damage: |folder| write(folder, "model.safetensors", [100, 0, 0, 0, 0, 0, 0, 0, b'{', b'}']),
        variant: "WeightsHeader",
        mentions: &["model.safetensors", "at most 2 bytes", "100 bytes"],
    },
    Case {
        name: "header that is not JSON",
        damage: |folder| write(folder, "model.safetensors", [2, 0, 0, 0, 0, 0, 0, 0, b'{', b'x']),
        variant: "WeightsHeader",
        mentions: &["model.safetensors", "JSON object of tensors", "line 1"],
    },
    Case {
        name: "truncated weights",
        damage: |folder| {
            let bytes = fs::read(folder.join("model.safetensors")).expect("readable");
            write(folder, "model.safetensors", &bytes[..bytes.len() - 100]);
        },
        variant: "TensorExtent",
        mentions: &["model.safetensors", "`lm_head.weight`", "inside", "bytes"],
    },
    Case {
        name: "bytes behind the last tensor",
        damage: |folder| {
            let mut bytes = fs::read(folder.join("model.safetensors")).expect("readable");
            bytes.extend_from_slice(&[0; 10]);
            write(folder, "model.safetensors", bytes);
        },
        variant: "WeightsHeader",
        mentions: &["model.safetensors", "rules of the safetensors format", "found"],
    },
    // The extents of tensors.
    Case {
        name: "extent past the end of the file",
        damage: |folder| {
            change_header(folder, "lm_head.weight", |entry| entry["data_offsets"][1] = json!(u64::MAX));
        },
        variant: "TensorExtent",
        mentions: &["`lm_head.weight`", "inside", "18446744073709551615"],
    },
    Case {
        name: "extent that ends before it begins",
        damage: |folder| {
            change_header(folder, "lm_head.weight", |entry| entry["data_offsets"] = json!([100, 10]));
        },
        variant: "TensorExtent",
        mentions: &["`lm_head.weight`", "inside", "bytes 100 to 10"],
    },
    Case {
        name: "extent that overlaps another one",
        damage: |folder| {
            change_header(folder, "model.layers.0.input_layernorm.weight", |entry| {
                entry["data_offsets"] = json!([0, 32]);
            });
        },
        variant: "TensorExtent",
        mentions: &["model.safetensors", "begins where the one before it ends", "overlap"],
    },
    Case {
        name: "fewer bytes than the shape needs",
        damage: |folder| {
            change_header(folder, "model.embed_tokens.weight", |entry| entry["shape"] = json!([16, 9]));
        },
        variant: "TensorExtent",
        mentions: &["`model.embed_tokens.weight`", "576 bytes", "512 bytes"],
    },
    Case {
        name: "shape whose product wraps",
        damage: |folder| {
            change_header(folder, "model.norm.weight", |entry| {
                entry["shape"] = json!([1u64 << 32, 1u64 << 32]);
            });
        },
        variant: "TensorExtent",
        mentions: &["`model.norm.weight`", "more than 2^64", "32 bytes"],
    },
    Case {
        name: "shape with a hundred dimensions",
        damage: |folder| {
            change_header(folder, "model.norm.weight", |entry| entry["shape"] = json!(vec![1; 100]));
        },
        variant: "TensorExtent",
        mentions: &["`model.norm.weight`", "at most 8 dimensions", "100"],
    },
    // Tensors against the configuration.
    Case {
        name: "wrong shape",
        damage: |folder| {
            change_tensors(folder, |tensors| tensors[3].2 = vec![HIDDEN, HIDDEN]);
        },
        variant: "TensorShape",
        mentions: &["model.safetensors", "`model.layers.0.self_attn.k_proj.weight`", "[4, 8]", "[8, 8]"],
    },
    Case {
        name: "transposed shape",
        damage: |folder| change_tensors(folder, |tensors| tensors[9].2.reverse()),
        variant: "TensorShape",
        mentions: &["`model.layers.0.mlp.down_proj.weight`", "[8, 12]", "[12, 8]"],
    },
    Case {
        name: "whole numbers as weights",
        damage: |folder| change_tensors(folder, |tensors| tensors[2].1 = "I64"),
        variant: "TensorDtype",
        mentions: &["model.safetensors", "`model.layers.0.self_attn.q_proj.weight`", "F32, F16 or BF16", "I64"],
    },
    Case {
        name: "8-bit floats as weights",
        damage: |folder| change_tensors(folder, |tensors| tensors[2].1 = "F8_E4M3"),
        variant: "TensorDtype",
        mentions: &["`model.layers.0.self_attn.q_proj.weight`", "F32, F16 or BF16", "F8_E4M3"],
    },
    Case {
        name: "absent tensor",
        damage: |folder| {
            change_tensors(folder, |tensors| {
                tensors.remove(7);
            });
        },
        variant: "MissingTensor",
        mentions: &["model.safetensors", "`model.layers.0.mlp.gate_proj.weight`", "[12, 8]", "no tensor of this name"],
    },
    Case {
        name: "fewer layers than the configuration has",
        damage: |folder| change_config(folder, "num_hidden_layers", json!(2)),
        variant: "MissingTensor",
        mentions: &["`model.layers.1.input_layernorm.weight`", "[8]", "`model.layers.0.input_layernorm.weight`"],
    },
    Case {
        name: "names of another family",
        damage: |folder| change_config(folder, "architectures", json!(["InternLM2ForCausalLM"])),
        variant: "MissingTensor",
        mentions: &["`model.tok_embeddings.weight`", "[16, 8]", "no tensor of this name"],
    },
    Case {
        name: "bias that the configuration does not have",
        damage: |folder| {
            change_tensors(folder, |tensors| {
                tensors.push(("model.layers.0.self_attn.q_proj.bias".into(), "F32", vec![HIDDEN]));
            });
        },
        variant: "UnexpectedTensor",
        mentions: &["model.safetensors", "`model.layers.0.self_attn.q_proj.bias`", "no bias", "found"],
    },
    // Shards.
    Case {
        name: "index that is not JSON",
        damage: |folder| {
            split(folder, json!({}));
            write(folder, "model.safetensors.index.json", "{");
        },
        variant: "Json",
        mentions: &["model.safetensors.index.json", "index of weight files", "line 1"],
    },
    Case {
        name: "index without a map",
        damage: |folder| split(folder, json!({})),
        variant: "BadValue",
        mentions: &["model.safetensors.index.json", "`weight_map`", "tensor names to file names", "{}"],
    },
    Case {
        name: "missing shard",
        damage: |folder| split(folder, whole_weight_map("shard-2.safetensors")),
        variant: "MissingShard",
        mentions: &["model.safetensors.index.json", "shard-2.safetensors", "`lm_head.weight`", "no such file"],
    },
    Case {
        name: "shard outside of the folder",
        damage: |folder| split(folder, whole_weight_map("../secret.safetensors")),
        variant: "ShardName",
        mentions: &["model.safetensors.index.json", "plain file name", "../secret.safetensors"],
    },
    Case {
        name: "shard by absolute path",
        damage: |folder| split(folder, whole_weight_map("/etc/passwd")),
        variant: "ShardName",
        mentions: &["model.safetensors.index.json", "plain file name", "/etc/passwd"],
    },
    Case {
        name: "tensor that is not in its shard",
        damage: |folder| {
            let mut weight_map = whole_weight_map("shard-1.safetensors");
            weight_map["model.layers.7.x"] = json!("shard-1.safetensors");
            split(folder, weight_map);
        },
        variant: "MissingTensor",
        mentions: &["shard-1.safetensors", "`model.layers.7.x`", "index.json places here", "no tensor"],
    },
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
        mentions: &["config.json", "`num_key_value_heads`", "`hidden_size`"],
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

#[test]
fn the_undamaged_model_opens() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    write_valid(folder.path());
    open(folder.path()).expect("valid");
    split(folder.path(), whole_weight_map("shard-1.safetensors"));
    open(folder.path()).expect("valid in shards");
}

#[test]
fn a_tied_model_may_have_a_head_all_the_same() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    write_valid(folder.path());
    change_config(folder.path(), "tie_word_embeddings", json!(true));
    open(folder.path()).expect("the head is left alone");
    change_tensors(folder.path(), |tensors| {
        tensors.pop();
    });
    open(folder.path()).expect("no head is needed");
}

#[test]
fn every_damage_is_reported() {
    let mut failures = Vec::new();
    for case in CASES {
        let parent = tempfile::tempdir().expect("a temporary folder");
        let folder = parent.path().join("model");
        fs::create_dir(&folder).expect("writable");
        write_valid(&folder);
        (case.damage)(&folder);
        let Err(error) = open(&folder) else {
            failures.push(format!("{}: opened", case.name));
            continue;
        };
        let message = error.to_string();
        let debug = format!("{error:?}");
        let variant = debug.split([' ', '(', '{']).next().unwrap_or_default();
        if variant != case.variant {
            failures.push(format!("{}: {variant} in place of {}: {message}", case.name, case.variant));
        }
        for mention in case.mentions {
            if !message.contains(mention) {
                failures.push(format!("{}: no {mention:?} in {message:?}", case.name));
            }
        }
        if !message.contains("expected") || !message.contains("found") {
            failures.push(format!("{}: neither expected nor found in {message:?}", case.name));
        }
        if error.fix().is_empty() || error.fix().ends_with('.') || !error.is_bad_input() {
            failures.push(format!("{}: fix {:?}", case.name, error.fix()));
        }
    }
    assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
}
