//! The shapes of well-known models, and the tensors that each consists of.

use anyhow::{Context, Result};

/// Which names and files a model has.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Family {
    /// Separate query, key and value weights; special tokens at the end of the vocabulary.
    Llama3,
    /// As Llama 3, with special tokens at the start of the vocabulary.
    Llama2,
    /// InternLM2's own names, and one packed weight for query, key and value.
    InternLm2,
}

/// Everything that fixes the size of a model.
#[derive(Clone, Debug)]
pub(crate) struct Shape {
    /// Name on the command line.
    pub(crate) name: &'static str,
    /// Names of tensors and files.
    pub(crate) family: Family,
    /// Number of tokens.
    pub(crate) vocabulary: usize,
    /// Features of an activation.
    pub(crate) hidden: usize,
    /// Features inside the feed-forward block.
    pub(crate) intermediate: usize,
    /// Decoder layers.
    pub(crate) layers: usize,
    /// Query heads.
    pub(crate) heads: usize,
    /// Key and value heads.
    pub(crate) kv_heads: usize,
    /// Features of one head.
    pub(crate) head_size: usize,
    /// Longest text in tokens.
    pub(crate) positions: usize,
    /// Base of the rotary embedding.
    pub(crate) rope_theta: f64,
    /// Factor of Llama 3.2's scaled rotary embedding.
    pub(crate) rope_factor: Option<f64>,
    /// The output weight is the embedding.
    pub(crate) tied: bool,
}

/// What a tensor is filled with.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Fill {
    /// Normal noise.
    Noise,
    /// Ones, as norm weights begin.
    Ones,
}

/// Name, dimensions and filling of one tensor.
#[derive(Clone, Debug)]
pub(crate) struct TensorSpec {
    /// Name in the file.
    pub(crate) name: String,
    /// Dimensions, outermost first.
    pub(crate) dims: Vec<usize>,
    /// What it holds.
    pub(crate) fill: Fill,
}

const LLAMA_3_8B: Shape = Shape {
    name: "llama-3-8b",
    family: Family::Llama3,
    vocabulary: 128_256,
    hidden: 4096,
    intermediate: 14_336,
    layers: 32,
    heads: 32,
    kv_heads: 8,
    head_size: 128,
    positions: 8192,
    rope_theta: 500_000.0,
    rope_factor: None,
    tied: false,
};

const SHAPES: [Shape; 6] = [
    LLAMA_3_8B,
    Shape {
        name: "llama-2-7b",
        family: Family::Llama2,
        vocabulary: 32_000,
        intermediate: 11_008,
        kv_heads: 32,
        positions: 4096,
        rope_theta: 10_000.0,
        ..LLAMA_3_8B
    },
    Shape {
        name: "llama-3.2-3b",
        hidden: 3072,
        intermediate: 8192,
        layers: 28,
        heads: 24,
        positions: 131_072,
        rope_factor: Some(32.0),
        tied: true,
        ..LLAMA_3_8B
    },
    Shape {
        name: "llama-3.2-1b",
        hidden: 2048,
        intermediate: 8192,
        layers: 16,
        head_size: 64,
        positions: 131_072,
        rope_factor: Some(32.0),
        tied: true,
        ..LLAMA_3_8B
    },
    Shape {
        name: "internlm2-1.8b",
        family: Family::InternLm2,
        vocabulary: 92_544,
        hidden: 2048,
        intermediate: 8192,
        layers: 24,
        heads: 16,
        positions: 32_768,
        rope_theta: 1_000_000.0,
        ..LLAMA_3_8B
    },
    Shape {
        name: "tiny",
        vocabulary: 512,
        hidden: 128,
        intermediate: 384,
        layers: 2,
        heads: 4,
        kv_heads: 2,
        head_size: 32,
        positions: 2048,
        rope_theta: 10_000.0,
        tied: true,
        ..LLAMA_3_8B
    },
];

/// The names of all shapes.
pub(crate) fn names() -> Vec<&'static str> {
    SHAPES.iter().map(|shape| shape.name).collect()
}

impl Shape {
    /// The shape of that name.
    pub(crate) fn named(name: &str) -> Result<Self> {
        let found = SHAPES.iter().find(|shape| shape.name == name);
        found.cloned().with_context(|| format!("no shape is called `{name}`; there are {}", names().join(", ")))
    }

    /// Features of all key heads, or of all value heads.
    fn kv_features(&self) -> usize {
        self.kv_heads * self.head_size
    }

    /// Every tensor of the model, in the order of the forward pass.
    pub(crate) fn tensors(&self) -> Vec<TensorSpec> {
        let (hidden, intermediate) = (self.hidden, self.intermediate);
        let (q, kv) = (self.heads * self.head_size, self.kv_features());
        let internlm2 = self.family == Family::InternLm2;
        let mut tensors = Vec::new();
        let mut add = |name: String, dims: &[usize]| {
            let fill = if dims.len() == 1 { Fill::Ones } else { Fill::Noise };
            let dims = dims.to_vec();
            tensors.push(TensorSpec { name, dims, fill });
        };

        let embedding = if internlm2 { "tok_embeddings" } else { "embed_tokens" };
        add(format!("model.{embedding}.weight"), &[self.vocabulary, hidden]);
        for layer in 0..self.layers {
            let mut linear = |name: &str, dims: &[usize]| {
                add(format!("model.layers.{layer}.{name}.weight"), dims);
            };
            if internlm2 {
                linear("attention_norm", &[hidden]);
                linear("attention.wqkv", &[q + 2 * kv, hidden]);
                linear("attention.wo", &[hidden, q]);
                linear("ffn_norm", &[hidden]);
                linear("feed_forward.w1", &[intermediate, hidden]);
                linear("feed_forward.w3", &[intermediate, hidden]);
                linear("feed_forward.w2", &[hidden, intermediate]);
            } else {
                linear("input_layernorm", &[hidden]);
                linear("self_attn.q_proj", &[q, hidden]);
                linear("self_attn.k_proj", &[kv, hidden]);
                linear("self_attn.v_proj", &[kv, hidden]);
                linear("self_attn.o_proj", &[hidden, q]);
                linear("post_attention_layernorm", &[hidden]);
                linear("mlp.gate_proj", &[intermediate, hidden]);
                linear("mlp.up_proj", &[intermediate, hidden]);
                linear("mlp.down_proj", &[hidden, intermediate]);
            }
        }
        add("model.norm.weight".to_owned(), &[hidden]);
        if !self.tied {
            let name = if internlm2 { "output.weight" } else { "lm_head.weight" };
            add(name.to_owned(), &[self.vocabulary, hidden]);
        }
        tensors
    }

    /// The special tokens with their ids.
    pub(crate) fn special_tokens(&self) -> Vec<(&'static str, usize)> {
        match self.family {
            Family::Llama3 => {
                // The real vocabulary keeps its last 256 ids for special tokens; a small one has room for two.
                let first = self.vocabulary - if self.vocabulary > 1024 { 256 } else { 2 };
                vec![("<|begin_of_text|>", first), ("<|end_of_text|>", first + 1)]
            }
            Family::Llama2 | Family::InternLm2 => vec![("<s>", 1), ("</s>", 2), ("<unk>", 0)],
        }
    }

    /// Name and id of the token that begins a text.
    pub(crate) fn bos(&self) -> (&'static str, usize) {
        self.special_tokens()[0]
    }

    /// Name and id of the token that ends a text.
    pub(crate) fn eos(&self) -> (&'static str, usize) {
        self.special_tokens()[1]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(name: &str, parameters: usize) {
        let shape = Shape::named(name).expect("a known shape");
        let tensors = shape.tensors();
        let sum: usize = tensors.iter().map(|t| t.dims.iter().product::<usize>()).sum();
        assert_eq!(sum, parameters, "{name}");
    }

    /// The counts that the models' own pages state.
    #[test]
    fn shapes_have_the_parameters_of_the_real_models() {
        check("llama-3-8b", 8_030_261_248);
        check("llama-2-7b", 6_738_415_616);
        check("llama-3.2-3b", 3_212_749_824);
        check("llama-3.2-1b", 1_235_814_400);
        check("internlm2-1.8b", 1_889_110_016);
    }
}
