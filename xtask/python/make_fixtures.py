"""Writes the reference fixtures of crates/hetero-llama/tests/fixtures.

Each model directory is a normal Hugging Face checkpoint with small random
weights and `expected.safetensors`: a prompt (`tokens`), the logits of all its
positions (`logits`) and the greedy continuation (`greedy`), all computed by
transformers in float32 on a CPU from the stored weights. Seeds are chosen so that the
best token leads the second one by more than 2 % of the range of the logits at
every greedy step: rounding cannot change the continuation.

`chat-templates/` holds published chat templates and what transformers makes of
some conversations.
"""

import argparse
import json
import math
import shutil
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

import chat_templates
from quantise import DEQUANTISED

BOS, EOS = "<|begin|>", "<|end|>"
TEXT = (
    "The quick brown fox jumps over the lazy dog. A small model reads a few words and writes the next one. "
    "Every test compares the numbers of this engine with the numbers of another one. Where the two differ, "
    "one of them is wrong; where they agree, both may still be wrong, but in the same way. "
    "fn main() { let sum: u32 = (1..=10).sum(); println!(\"the sum is {sum}\"); } "
)
GAP = 0.02
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
LLAMA3_SCALING = {
    "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 32,
}


def small_tokenizer(vocab_size):
    """Byte-level BPE; 256 bytes, the special tokens and a few merges."""
    special = [BOS, EOS] if vocab_size >= 258 else [BOS]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        [TEXT],
        trainers.BpeTrainer(
            vocab_size=vocab_size, special_tokens=special, show_progress=False,
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        ),
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A {BOS}:1 $B:1", special_tokens=[(BOS, 0)]
    )
    return tokenizer


def dump(path, value):
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def config_of(*, hidden=64, heads=4, kv_heads=2, layers=2, intermediate=96, vocab=272, context=128, style="v4",
              dtype="float32", rope_theta=10000.0, rope_scaling=None, **extra):
    """config.json as transformers 4 (`v4`) or 5 (`v5`) writes it."""
    config = {
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": 0,
        "eos_token_id": 1 if vocab >= 258 else 0,
        "hidden_act": "silu",
        "hidden_size": hidden,
        "initializer_range": 0.02,
        "intermediate_size": intermediate,
        "max_position_embeddings": context,
        "mlp_bias": False,
        "model_type": "llama",
        "num_attention_heads": heads,
        "num_hidden_layers": layers,
        "num_key_value_heads": kv_heads,
        "pretraining_tp": 1,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": False,
        "use_cache": True,
        "vocab_size": vocab,
    }
    if style == "v4":
        config["rope_scaling"] = rope_scaling
        config["rope_theta"] = rope_theta
        config["torch_dtype"] = dtype
        config["transformers_version"] = "4.44.2"
    else:
        config["head_dim"] = hidden // heads
        config["dtype"] = dtype
        config["pad_token_id"] = None
        config["rope_parameters"] = {"rope_theta": rope_theta, **(rope_scaling or {"rope_type": "default"})}
        config["transformers_version"] = "5.0.0"
    config.update(extra)
    return dict(sorted(config.items()))


# Name: configuration, length of the prompt, and where given: length of the greedy
# continuation (20), bytes of a shard, the fixture whose weights it shares.
FIXTURES = {
    "llama2-mha": dict(config=config_of(kv_heads=4), prompt=24),
    "llama3-gqa": dict(config=config_of(style="v5", rope_theta=500000.0), prompt=24),
    "llama31-rope-llama3": dict(
        config=config_of(dtype="bfloat16", rope_scaling={**LLAMA3_SCALING, "rope_type": "llama3"}), prompt=40),
    "llama31-rope-llama3-v5": dict(
        config=config_of(dtype="bfloat16", style="v5", rope_scaling={**LLAMA3_SCALING, "rope_type": "llama3"}),
        prompt=40, same_as="llama31-rope-llama3"),
    "llama-rope-linear": dict(
        config=config_of(dtype="bfloat16", kv_heads=4, rope_scaling={"type": "linear", "factor": 4.0}), prompt=32),
    "llama32-tied": dict(
        config=config_of(dtype="bfloat16", rope_theta=500000.0, tie_word_embeddings=True, head_dim=16), prompt=24),
    "llama-head-dim": dict(config=config_of(head_dim=24), prompt=20),
    "llama-bias": dict(config=config_of(dtype="bfloat16", attention_bias=True, mlp_bias=True), prompt=20),
    "llama-odd": dict(
        config=config_of(dtype="bfloat16", hidden=60, heads=3, kv_heads=1, intermediate=92, vocab=257), prompt=17),
    "llama-sharded": dict(config=config_of(dtype="bfloat16"), prompt=20, shard=60_000),
    "llama-f16": dict(config=config_of(dtype="float16"), prompt=20),
    "llama-long": dict(config=config_of(dtype="bfloat16", context=256), prompt=17, greedy=112),
    "mistral": dict(
        config={
            k: v for k, v in config_of(
                dtype="bfloat16", architectures=["MistralForCausalLM"], model_type="mistral", sliding_window=None,
                rope_theta=1000000.0).items()
            if k not in ("attention_bias", "mlp_bias", "pretraining_tp", "rope_scaling")
        }, prompt=24),
    "qwen2": dict(
        config={
            k: v for k, v in config_of(
                dtype="bfloat16", architectures=["Qwen2ForCausalLM"], model_type="qwen2", tie_word_embeddings=True,
                rms_norm_eps=1e-6, rope_theta=1000000.0, sliding_window=128, max_window_layers=2,
                use_sliding_window=False).items()
            if k not in ("attention_bias", "mlp_bias", "pretraining_tp", "rope_scaling")
        }, prompt=24),
    "internlm2": dict(
        config={
            k: v for k, v in config_of(
                dtype="bfloat16", architectures=["InternLM2ForCausalLM"], model_type="internlm2", bias=False,
                attn_implementation="eager", rope_theta=1000000.0).items()
            if k not in ("attention_bias", "mlp_bias", "pretraining_tp", "attention_dropout")
        }, prompt=24),
}

# Seeds found by the search in make_model, which starts here.
SEEDS = {
    "llama2-mha": 440, "llama3-gqa": 1279, "llama31-rope-llama3": 329, "llama-rope-linear": 173, "llama32-tied": 95,
    "llama-head-dim": 440, "llama-bias": 5296, "llama-odd": 285, "llama-sharded": 586, "llama-f16": 586,
    "llama-long": 2, "mistral": 512, "qwen2": 4190, "internlm2": 512,
}


def random_weights(shapes, config, seed):
    """Weights by name, wide enough that the logits spread and attention is not uniform."""
    generator = torch.Generator().manual_seed(seed)
    normal = lambda shape: torch.randn(shape, generator=generator)
    tied = config["tie_word_embeddings"]
    head = config["hidden_size"]
    weights = {}
    for name, shape in sorted(shapes.items()):
        if len(shape) == 1:
            weights[name] = 0.3 * normal(shape) if name.endswith("bias") else 1.0 + 0.2 * normal(shape)
        elif "embed_tokens" in name:
            # Rows of different sizes: some tokens stand out, as in real models.
            scale = torch.exp(0.35 * normal((shape[0], 1)))
            weights[name] = (0.1 if tied else 1.0) * scale * normal(shape)
        elif "lm_head" in name:
            weights[name] = 2.0 / math.sqrt(head) * torch.exp(0.35 * normal((shape[0], 1))) * normal(shape)
        else:
            gain = 1.3 if ("q_proj" in name or "k_proj" in name) else 1.0
            weights[name] = gain / math.sqrt(shape[1]) * normal(shape)
    return weights


def with_cycle(weights, seed):
    """Lets each token point at another one, so that a long greedy run has clear winners.
    Attention still moves every logit."""
    embedding, head = weights["model.embed_tokens.weight"], weights["lm_head.weight"]
    embedding /= embedding.pow(2).mean(dim=1, keepdim=True).sqrt()
    vocab = embedding.shape[0]
    order = 2 + torch.randperm(vocab - 2, generator=torch.Generator().manual_seed(seed + 1))
    follower = order.roll(-1)
    weights["lm_head.weight"] = 0.6 * head
    weights["lm_head.weight"][follower] += 0.35 * embedding[order]
    return weights


def to_internlm2(weights, config):
    """The names and the packed layout of InternLM2: for each key-value head its
    query heads, then the key head, then the value head."""
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    hidden = config["hidden_size"]
    dim, groups = hidden // heads, heads // kv_heads
    out = {
        "model.tok_embeddings.weight": weights["model.embed_tokens.weight"],
        "model.norm.weight": weights["model.norm.weight"],
        "output.weight": weights["lm_head.weight"],
    }
    for layer in range(config["num_hidden_layers"]):
        p = f"model.layers.{layer}."
        q = weights[p + "self_attn.q_proj.weight"].view(kv_heads, groups, dim, hidden)
        k = weights[p + "self_attn.k_proj.weight"].view(kv_heads, 1, dim, hidden)
        v = weights[p + "self_attn.v_proj.weight"].view(kv_heads, 1, dim, hidden)
        out[p + "attention.wqkv.weight"] = torch.cat([q, k, v], dim=1).reshape(-1, hidden).contiguous()
        out[p + "attention.wo.weight"] = weights[p + "self_attn.o_proj.weight"]
        out[p + "feed_forward.w1.weight"] = weights[p + "mlp.gate_proj.weight"]
        out[p + "feed_forward.w3.weight"] = weights[p + "mlp.up_proj.weight"]
        out[p + "feed_forward.w2.weight"] = weights[p + "mlp.down_proj.weight"]
        out[p + "attention_norm.weight"] = weights[p + "input_layernorm.weight"]
        out[p + "ffn_norm.weight"] = weights[p + "post_attention_layernorm.weight"]
    return out


def load_config(folder, config):
    """A transformers model without weights for `config`."""
    folder.mkdir(parents=True, exist_ok=True)
    dump(folder / "config.json", config)
    if config["model_type"] == "internlm2":  # the same computation as Llama
        keys = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
                "num_key_value_heads", "vocab_size", "rms_norm_eps", "max_position_embeddings",
                "tie_word_embeddings", "bos_token_id", "eos_token_id")
        equivalent = LlamaConfig(
            **{k: config[k] for k in keys},
            rope_parameters={"rope_type": "default", "rope_theta": config["rope_theta"]},
            attn_implementation="eager")
        return LlamaForCausalLM(equivalent).to(torch.float32)
    from transformers import AutoConfig

    return AutoModelForCausalLM.from_config(
        AutoConfig.from_pretrained(folder), attn_implementation="eager", dtype=torch.float32)


@torch.no_grad()
def logits_of(model, tokens):
    return model(input_ids=tokens.view(1, -1), use_cache=False).logits[0].to(torch.float32)


@torch.no_grad()
def greedy_of(model, tokens, count, special):
    """Greedy continuation, or nothing when a step is too close or gives a special token."""
    found, past, ids = [], None, tokens.view(1, -1)
    for _ in range(count):
        result = model(input_ids=ids, past_key_values=past, use_cache=True)
        past, last = result.past_key_values, result.logits[0, -1].to(torch.float32)
        top = torch.topk(last, 2)
        if (top.values[0] - top.values[1]) <= 1.5 * GAP * (last.max() - last.min()):
            return None
        best = int(top.indices[0])
        if best in special:
            return None
        found.append(best)
        ids = torch.tensor([[best]])
    # Not a repetition of a few tokens.
    if len(set(found)) < (8 if count < 64 else count // 2):
        return None
    return torch.tensor(found)


def save_weights(folder, weights, shard):
    metadata = {"format": "pt"}
    if shard is None:
        save_file(weights, str(folder / "model.safetensors"), metadata=metadata)
        return
    groups, size = [{}], 0
    for name in sorted(weights):
        bytes_ = weights[name].numel() * weights[name].element_size()
        if groups[-1] and size + bytes_ > shard:
            groups.append({})
            size = 0
        groups[-1][name] = weights[name]
        size += bytes_
    index = {"metadata": {"total_size": sum(w.numel() * w.element_size() for w in weights.values())},
             "weight_map": {}}
    for number, group in enumerate(groups, 1):
        file = f"model-{number:05}-of-{len(groups):05}.safetensors"
        save_file(group, str(folder / file), metadata=metadata)
        index["weight_map"].update({name: file for name in group})
    index["weight_map"] = dict(sorted(index["weight_map"].items()))
    dump(folder / "model.safetensors.index.json", index)


def save_tokenizer(folder, config):
    tokenizer = small_tokenizer(config["vocab_size"])
    tokenizer.save(str(folder / "tokenizer.json"))
    dump(folder / "tokenizer_config.json", {
        "add_bos_token": True,
        "add_eos_token": False,
        "bos_token": BOS,
        "clean_up_tokenization_spaces": False,
        "eos_token": EOS if config["vocab_size"] >= 258 else BOS,
        "model_max_length": config["max_position_embeddings"],
        "tokenizer_class": "PreTrainedTokenizerFast",
    })
    assert tokenizer.get_vocab_size() <= config["vocab_size"]


def make_model(name, fixture, out):
    config = fixture["config"]
    folder = out / name
    shutil.rmtree(folder, ignore_errors=True)
    model = load_config(folder, config).eval()
    dtype = DTYPES[config.get("torch_dtype") or config["dtype"]]
    shapes = {n: tuple(p.shape) for n, p in model.named_parameters()}
    special = {config["bos_token_id"], config["eos_token_id"]}
    count = fixture.get("greedy", 20)
    source = fixture.get("same_as", name)
    first = SEEDS.get(source, 1)
    for seed in range(first, first + 200_000):
        weights = random_weights(shapes, config, seed)
        if name == "llama-long":
            weights = with_cycle(weights, seed)
        weights = {n: w.to(dtype) for n, w in weights.items()}
        model.load_state_dict({n: w.float() for n, w in weights.items()}, strict=False)
        generator = torch.Generator().manual_seed(seed + 1000)
        tokens = torch.cat([
            torch.tensor([config["bos_token_id"]]),
            torch.randint(2, config["vocab_size"], (fixture["prompt"] - 1,), generator=generator)])
        greedy = greedy_of(model, tokens, count, special)
        if greedy is not None:
            break
    else:
        sys.exit(f"{name}: no seed found")
    SEEDS[source] = seed

    stored = to_internlm2(weights, config) if config["model_type"] == "internlm2" else weights
    save_weights(folder, stored, fixture.get("shard"))
    save_tokenizer(folder, config)
    dump(folder / "generation_config.json",
         {"bos_token_id": config["bos_token_id"], "eos_token_id": config["eos_token_id"]})

    # The expected values come from the directory itself, as any user would load it.
    if config["model_type"] != "internlm2":
        model, loading = AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True)
        model = model.eval()
        missing = [key for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")
                   for key in loading.get(kind, []) if key != "lm_head.weight"]
        if missing:
            sys.exit(f"{name}: transformers does not load {missing}")
    logits = logits_of(model, tokens)
    whole = logits_of(model, torch.cat([tokens, greedy]))
    check = whole[len(tokens) - 1 : -1]
    top = torch.topk(check, 2).values
    gap = ((top[:, 0] - top[:, 1]) / (check.max(dim=1).values - check.min(dim=1).values)).min()
    assert torch.equal(check.argmax(dim=1), greedy) and gap > GAP
    save_file({"tokens": tokens, "logits": logits.contiguous(), "greedy": greedy},
              str(folder / "expected.safetensors"))
    print(f"{name:24} seed {seed:6} logits {logits.min():.1f}..{logits.max():.1f} std {logits.std():.2f} "
          f"smallest gap {gap:.3f}", flush=True)
    if name == "llama3-gqa":
        quantised(folder, tokens)


def quantised(folder, tokens):
    """Logits with quantised linear weights (the output head too, the embedding not)."""
    for kind, dequantised in DEQUANTISED.items():
        model = AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, attn_implementation="eager").eval()
        with torch.no_grad():
            for module in model.modules():
                if isinstance(module, torch.nn.Linear):
                    module.weight.copy_(dequantised(module.weight))
        save_file({
            "tokens": tokens,
            "logits": logits_of(model, tokens).contiguous(),
            "w_q_proj": model.model.layers[0].self_attn.q_proj.weight.detach().clone().contiguous(),
            "w_down_proj": model.model.layers[0].mlp.down_proj.weight.detach().clone().contiguous(),
        }, str(folder / f"expected-{kind}.safetensors"))


def main():
    default = Path(__file__).resolve().parents[2] / "crates/hetero-llama/tests/fixtures"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=default)
    parser.add_argument("--only", help="one fixture by name, or chat-templates")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    for name, fixture in FIXTURES.items():
        if args.only in (None, name):
            make_model(name, fixture, args.out)
    if args.only in (None, "chat-templates"):
        chat_templates.make(args.out / "chat-templates")
    print("seeds:", json.dumps(SEEDS))


if __name__ == "__main__":
    main()
