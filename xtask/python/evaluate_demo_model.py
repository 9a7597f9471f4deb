"""Perplexity of a model directory over its held-out.txt, written to perplexity.json.

Method (the one of `hetero perplexity`): the whole file is tokenised without special
tokens. Window i starts at token i * stride and holds `context` tokens; the model's
input is BOS followed by the window. The first window scores all its tokens, a later
one only those that no window before it scored (its last `stride` tokens; the
last window may hold fewer). Perplexity is exp(sum of -ln p / number of scored tokens).
Logits and sums are in float32 and float64, on a CPU.

The weights are those of the file (bfloat16) computed in float32; `w8g32` and
`w4g32` have all linear weights, the tied output head included, replaced by what
their quantised form stands for (see quantise.py); the embedding stays as stored.
"""

import argparse
import json
import math
from pathlib import Path

import torch
import torch.nn.functional as F
import transformers
from tokenizers import Tokenizer
from transformers import LlamaForCausalLM

from quantise import DEQUANTISED


def windows(count, context, stride):
    """(start, end, first scored token) of every window over `count` tokens."""
    start, scored = 0, 0
    while scored < count:
        end = min(start + context, count)
        yield start, end, scored
        scored = end
        start += stride


@torch.no_grad()
def perplexity(model, head, ids, bos, context, stride, dtype=torch.float32):
    total, scored = 0.0, 0
    for start, end, first in windows(len(ids), context, stride):
        window = ids[start:end]
        inputs = torch.tensor([[bos] + window])
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
            hidden = model.model(input_ids=inputs, use_cache=False).last_hidden_state[0]
            logits = F.linear(hidden, head).to(torch.float32)
        # The logits at position p (BOS is position 0) predict window token p.
        skip = first - start
        losses = F.cross_entropy(logits[skip:-1], torch.tensor(window[skip:]), reduction="none")
        total += losses.double().sum().item()
        scored += len(losses)
    return math.exp(total / scored), scored


@torch.no_grad()
def quantise_model(model, kind):
    """Quantises the layers in place; returns the quantised output head."""
    for layer in model.model.layers:
        for module in layer.modules():
            if isinstance(module, torch.nn.Linear):
                module.weight.copy_(DEQUANTISED[kind](module.weight))
    return DEQUANTISED[kind](model.lm_head.weight)


@torch.no_grad()
def continuation(model, tokenizer, bos, prompt, count, temperature, seed=0):
    generator = torch.Generator().manual_seed(seed)
    ids = [bos] + tokenizer.encode(prompt, add_special_tokens=False).ids
    for _ in range(count):
        logits = model(input_ids=torch.tensor([ids])).logits[0, -1]
        if temperature == 0:
            best = int(logits.argmax())
        else:
            best = int(torch.multinomial(torch.softmax(logits / temperature, -1), 1, generator=generator))
        if best == model.config.eos_token_id:
            break
        ids.append(best)
    return tokenizer.decode(ids, skip_special_tokens=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = Path(__file__).resolve().parents[2] / "crates/hetero-cli/demo-model"
    parser.add_argument("--model", type=Path, default=default)
    parser.add_argument("--context", type=int, default=512)
    parser.add_argument("--stride", type=int, default=256)
    parser.add_argument("--prompt", default="Ownership is")
    args = parser.parse_args()

    tokenizer = Tokenizer.from_file(str(args.model / "tokenizer.json"))
    text = (args.model / "held-out.txt").read_text(encoding="utf-8")
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    load = lambda: LlamaForCausalLM.from_pretrained(args.model, dtype=torch.float32, attn_implementation="eager").eval()

    model = load()
    bos = model.config.bos_token_id
    results = {}

    def measure(name, head, dtype=torch.float32):
        value, scored = perplexity(model, head, ids, bos, args.context, args.stride, dtype)
        results[name] = round(value, 5)
        print(f"{name}: {value:.4f} over {scored} tokens", flush=True)
        return scored

    scored = measure("f32", model.lm_head.weight)
    measure("bf16", model.lm_head.weight, torch.bfloat16)
    for temperature in (0.0, 0.8):
        print(f"--- temperature {temperature}")
        print(continuation(model, tokenizer, bos, args.prompt, 160, temperature))
    for kind in DEQUANTISED:
        model = load()
        measure(kind, quantise_model(model, kind))
    report = {
        "file": "held-out.txt",
        "bytes": len(text.encode()),
        "tokens": len(ids),
        "scored_tokens": scored,
        "context": args.context,
        "stride": args.stride,
        "method": (
            "Whole file tokenised without special tokens. Window i starts at token i*stride and holds `context` "
            "tokens (fewer at the end); model input = BOS + window, so positions 0..=context. The first window scores "
            "all its tokens, later windows only those not scored before. Windows stop when all tokens are scored. "
            "perplexity = exp(total negative log likelihood / scored tokens)."
        ),
        "perplexity": results,
        "what": {
            "f32": "stored bfloat16 weights, float32 arithmetic",
            "bf16": "matrix products in bfloat16 (autocast)",
            "w8g32": "linear weights and output head as Q8_0 values, float32 arithmetic",
            "w4g32": "linear weights and output head as Q4_0 values, float32 arithmetic",
        },
        "made_with": {"transformers": transformers.__version__, "torch": torch.__version__.split("+")[0]},
    }
    (args.model / "perplexity.json").write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
