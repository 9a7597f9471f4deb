//! Damages of the folder, its weight files and their tensors.

use std::fs;

use serde_json::json;

use crate::Case;
use crate::model::{HIDDEN, change_config, change_header, change_tensors, split, whole_weight_map, write};

pub(crate) const CASES: &[Case] = &[
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
        mentions: &["`model.layers.1.self_attn.q_proj.weight`", "[8, 8]", "`model.layers.0.self_attn.q_proj.weight`"],
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
];
