"""Trains the demo model: a small Llama on the Rust documentation.

Stages, each reproducible from the seed:

1. the text of the installed `rust-docs` (see rust_docs.py), some documents held out;
2. a byte-level BPE tokenizer over the remaining ones;
3. training with Muon (matrices) and AdamW (embedding, norms); the learning rate
   warms up, stays constant and then falls linearly (`--decay` of the steps). While
   it falls, sequences are longer, so that all positions are trained, and every
   second step sees 4-bit weights (straight-through), so that the model keeps its
   quality when quantised;
4. the checkpoint as a Hugging Face directory in bfloat16.

A run goes on from the checkpoint in the work directory. The rate is constant until
it falls, so that an interrupted run loses nothing and may get another number of
steps, and a finished one may get another cycle (`--cycle-start`). README.md has the
command lines of the published model.
"""

import argparse
import json
import math
import os
import shutil
import string
import sys
import time
from copy import deepcopy
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AttentionInterface, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

import fast_ops
import rust_docs
from quantise import dequantised_w4

BOS, EOS = "<|begin_of_text|>", "<|end_of_text|>"
HELD_OUT_EVERY = 40
HELD_OUT_SIZES = (600, 6000)
# Books that explain and tell, rather than list.
PROSE = {
    "book", "cargo", "edition-guide", "embedded-book", "nomicon", "reference", "rust-by-example", "rustdoc",
    "style-guide",
}

# The model has seen no conversations: contents are joined, nothing more.
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if not loop.first %}{{ '\\n\\n' }}{% endif %}{{ message['content'] }}"
    "{% endfor %}"
)


def log(text):
    print(text, flush=True)


def split_documents(documents):
    """Training documents and held-out ones: every 40th of those of middling length."""
    low, high = HELD_OUT_SIZES
    candidates = [name for name, text in documents if low <= len(text) <= high]
    chosen = set(candidates[HELD_OUT_EVERY // 2 :: HELD_OUT_EVERY])
    held = [(n, t) for n, t in documents if n in chosen]
    return [(n, t) for n, t in documents if n not in chosen], held


def train_tokenizer(texts, vocab_size):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[BOS, EOS],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A {BOS}:1 $B:1", special_tokens=[(BOS, 0)]
    )
    return tokenizer


def prepare(args):
    """Corpus, tokenizer and token stream, made once in the work directory."""
    stream, marks = args.work / "train.npy", args.work / "train-prose.npy"
    if stream.exists() and marks.exists():
        return
    root = args.docs or rust_docs.default_html_root()
    documents = rust_docs.documents(root)
    training, held = split_documents(documents)
    size = lambda docs: sum(len(t.encode()) for _, t in docs)
    log(f"{len(training)} training documents, {size(training)} bytes; "
        f"{len(held)} held out, {size(held)} bytes")
    (args.work / "held-out.txt").write_text("\n\n".join(t.strip() for _, t in held) + "\n", encoding="utf-8")
    (args.work / "held-out-names.txt").write_text("".join(f"{n}\n" for n, _ in held))
    tokenizer = train_tokenizer((t for _, t in training), args.vocab)
    tokenizer.save(str(args.work / "tokenizer.json"))
    # The order of documents is mixed once; sequences are cut from the result.
    order = np.random.default_rng(args.seed).permutation(len(training))
    encoded = tokenizer.encode_batch([training[i][1].strip() for i in order], add_special_tokens=False)
    ids, prose = [], []
    for i, one in zip(order, encoded):
        ids.extend([0, *one.ids, 1])
        prose.extend([training[i][0].split("/")[0] in PROSE] * (len(one.ids) + 2))
    log(f"{len(ids)} training tokens, {sum(prose)} of them prose")
    for path, array in ((stream, np.array(ids, dtype=np.int32)), (marks, np.array(prose))):
        temporary = path.with_suffix(".tmp.npy")
        np.save(temporary, array)
        os.replace(temporary, path)


class Batches:
    """Sequences BOS + a piece of the token stream; every pass is cut at another
    offset and mixed anew. A batch depends on the seed and the position only.

    With `prose` above 1, pieces of the books of PROSE come that many times in a
    pass, each time cut at another offset. From the second time on, they begin with
    a paragraph where one begins early in the piece, as a prompt does.
    """

    def __init__(self, ids, prose, tokenizer, seed):
        self.ids, self.is_prose, self.seed = ids, prose, seed
        self.prose_tokens = int(prose.sum())
        tokens = [tokenizer.id_to_token(i) for i in range(tokenizer.get_vocab_size())]
        breaks = np.array([t.endswith("\u010a") for t in tokens])[ids]  # the byte "\n", as the tokenizer writes it
        opens = np.array([t[0] in string.ascii_uppercase for t in tokens])
        places = np.flatnonzero(breaks[:-2] & breaks[1:-1] & opens[ids[2:]]) + 2
        following = np.append(places, len(ids))[np.searchsorted(places, np.arange(len(ids)))]
        self.paragraph = following.astype(np.int32)  # the first that begins at a position or after it

    def starts(self, epoch, length, prose):
        rng = np.random.default_rng([self.seed, epoch, length])
        found = []
        for copy in range(prose):
            starts = np.arange(int(rng.integers(length)), len(self.ids) - length - 1, length)
            if copy > 0:
                starts = starts[self.is_prose[starts + length // 2]]
                moved = self.paragraph[starts]
                fits = (moved < starts + length // 4) & (moved + length < len(self.ids))
                starts = np.where(fits, moved, starts)
            found.append(starts)
        return rng.permutation(np.concatenate(found))

    def get(self, index, count, length, prose=1):
        """Batch `index` of `count` sequences: inputs and targets."""
        # What a pass has whatever the offset; the number of pieces of prose varies more.
        pieces = (len(self.ids) - 2 * length - 1) // length
        if prose > 1:
            pieces = int((len(self.ids) + (prose - 1) * self.prose_tokens) // length * 0.99)
        per_epoch = pieces // count
        starts = self.starts(index // per_epoch, length, prose)
        chosen = starts[(index % per_epoch) * count :][:count]
        rows = np.stack([self.ids[s : s + length] for s in chosen]).astype(np.int64)
        inputs = np.concatenate([np.zeros((count, 1), np.int64), rows[:, :-1]], axis=1)
        return torch.from_numpy(inputs), torch.from_numpy(rows)


def make_model(args):
    config = LlamaConfig(
        vocab_size=args.vocab, hidden_size=256, intermediate_size=704, num_hidden_layers=args.layers,
        num_attention_heads=8, num_key_value_heads=4, head_dim=32, max_position_embeddings=1024,
        rms_norm_eps=1e-5, tie_word_embeddings=True, bos_token_id=0, eos_token_id=1, pad_token_id=None,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        initializer_range=0.02, attn_implementation="demo", use_cache=False,
    )
    AttentionInterface.register("demo", fast_ops.attention_for_transformers)
    torch.manual_seed(args.seed)
    model = LlamaForCausalLM(config)
    with torch.no_grad():  # residual outputs start small
        for layer in model.model.layers:
            for weight in (layer.self_attn.o_proj.weight, layer.mlp.down_proj.weight):
                weight.mul_(1.0 / math.sqrt(2 * args.layers))
    return model


class Muon(torch.optim.Optimizer):
    """Momentum whose matrix updates are orthogonalised by Newton-Schulz steps.

    The same rule as torch.optim.Muon with `adjust_lr_fn="match_rms_adamw"`, over
    all matrices of one shape at once: on a CPU this is many times faster for
    matrices as small as these.
    """

    def __init__(self, parameters, lr, weight_decay, momentum=0.95):
        super().__init__(parameters, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @staticmethod
    def orthogonalise(g):
        transposed = g.shape[-2] > g.shape[-1]
        x = g.transpose(-1, -2) if transposed else g
        x = (x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-7)).to(torch.bfloat16)
        for _ in range(5):
            a = x @ x.transpose(-1, -2)
            b = torch.baddbmm(a, a, a, beta=-4.7750, alpha=2.0315)
            x = torch.baddbmm(x, b, x, beta=3.4445)
        return x.transpose(-1, -2) if transposed else x

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            shapes = {}
            for p in group["params"]:
                state = self.state[p]
                if "momentum" not in state:
                    state["momentum"] = torch.zeros_like(p)
                buffer = state["momentum"]
                buffer.lerp_(p.grad, 1 - group["momentum"])
                shapes.setdefault(p.shape, []).append((p, p.grad.lerp(buffer, group["momentum"])))
            for shape, members in shapes.items():
                updates = self.orthogonalise(torch.stack([update for _, update in members]))
                scale = group["lr"] * 0.2 * math.sqrt(max(shape))
                for (p, _), update in zip(members, updates):
                    p.mul_(1 - group["lr"] * group["weight_decay"])
                    p.add_(update, alpha=-scale)


class FakeQuantised(torch.nn.Linear):
    """A linear layer that, while `active`, computes with 4-bit weights and
    passes gradients on to the full weights. Its output may have dropout."""

    active = False
    dropout = 0.0

    def forward(self, x):
        y = F.linear(x, straight_through(self.weight, FakeQuantised.active), self.bias)
        return fast_ops.dropout(y, self.dropout) if self.dropout and self.training else y


def straight_through(weight, active):
    if not active:
        return weight
    return weight + (dequantised_w4(weight) - weight.detach())


def loss_of(model, inputs, targets, body=None):
    """Summed cross entropy; `body` stands for `model.model` where that was compiled."""
    if body is None:
        body = model.model
    with torch.autocast("cpu", dtype=torch.bfloat16):
        hidden = body(input_ids=inputs, use_cache=False).last_hidden_state
    head = straight_through(model.model.embed_tokens.weight, FakeQuantised.active)
    return fast_ops.CrossEntropy.apply(hidden.flatten(0, 1), head, targets.flatten())


@torch.no_grad()
def held_out_loss(model, ids, length=512, count=8):
    """Mean loss over consecutive pieces of the held-out text (a quick measure)."""
    model.eval()
    total = scored = 0
    pieces = len(ids) // length
    rows = torch.from_numpy(ids[: pieces * length].astype(np.int64)).view(pieces, length)
    for part in rows.split(count):
        inputs = torch.cat([torch.zeros(len(part), 1, dtype=torch.int64), part[:, :-1]], dim=1)
        total += loss_of(model, inputs, part).item()
        scored += part.numel()
    model.train()
    return total / scored


def export(model, args, out):
    """Writes the Hugging Face directory: bfloat16 weights, configuration, tokenizer."""
    out.mkdir(parents=True, exist_ok=True)
    work = args.work / "export"
    shutil.rmtree(work, ignore_errors=True)
    copy = LlamaForCausalLM(deepcopy(model.config))
    copy.load_state_dict(model.state_dict())
    copy.config.use_cache = True
    copy.to(torch.bfloat16).save_pretrained(work)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(args.work / "tokenizer.json"), bos_token=BOS, eos_token=EOS,
        model_max_length=model.config.max_position_embeddings, clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.save_pretrained(work)
    # One template, inside tokenizer_config.json, where every loader looks.
    separate = work / "chat_template.jinja"
    if separate.exists():
        separate.unlink()
    path = work / "tokenizer_config.json"
    settings = json.loads(path.read_text())
    settings.update(
        add_bos_token=True, add_eos_token=False, chat_template=CHAT_TEMPLATE,
        tokenizer_class="PreTrainedTokenizerFast",
    )
    path.write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n")
    generation = {"bos_token_id": 0, "eos_token_id": 1, "do_sample": True, "temperature": 0.7, "top_p": 0.9}
    (work / "generation_config.json").write_text(json.dumps(generation, indent=2) + "\n")
    shutil.copy(args.work / "held-out.txt", work / "held-out.txt")
    for path in sorted(work.iterdir()):
        temporary = out / (path.name + ".part")
        shutil.copyfile(path, temporary)
        os.replace(temporary, out / path.name)
    shutil.rmtree(work)


def save_checkpoint(path, model, optimisers, step, tokens):
    state = {
        "model": model.state_dict(),
        "optimisers": [o.state_dict() for o in optimisers],
        "step": step,
        "tokens": tokens,
    }
    torch.save(state, str(path) + ".part")
    os.replace(str(path) + ".part", path)


def schedule(step, args):
    """Learning-rate factor and whether the decay has begun."""
    done, steps = step - args.cycle_start, args.steps - args.cycle_start
    decay_from = int(steps * (1 - args.decay))
    if done < args.warmup:
        return (done + 1) / args.warmup, False
    if done < decay_from:
        return 1.0, False
    return max(0.0, (steps - done) / (steps - decay_from)), True


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for the corpus and checkpoints")
    parser.add_argument("--out", type=Path, required=True, help="folder of the finished model")
    parser.add_argument("--docs", type=Path, help="share/doc/rust/html (default: of the active toolchain)")
    parser.add_argument("--steps", type=int, default=1250)
    parser.add_argument("--stop", type=int, help="the step at which to stop, even though the rate has not fallen")
    parser.add_argument("--cycle-start", type=int, default=0, help="the step at which this cycle of the rate begins")
    parser.add_argument("--warmup", type=int, default=60)
    parser.add_argument("--decay", type=float, default=0.4, help="part of the cycle's steps with a falling rate")
    parser.add_argument("--prose", type=int, default=1, help="how often prose comes in a pass while the rate falls")
    parser.add_argument("--dropout", type=float, default=0.0, help="of the outputs of attention and MLP")
    parser.add_argument("--batch", type=int, default=16, help="sequences of 512 tokens in a batch")
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--vocab", type=int, default=4096)
    parser.add_argument("--matrix-lr", type=float, default=4e-3)
    parser.add_argument("--other-lr", type=float, default=4e-3)
    parser.add_argument("--weight-decay", type=float, default=0.1)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--eval-every", type=int, default=100)
    parser.add_argument("--save-every", type=int, default=50)
    parser.add_argument("--export-every", type=int, default=0, help="also write interim models to --out")
    parser.add_argument("--compile", action="store_true", help="torch.compile the model")
    return parser.parse_args()


def main():
    fast_ops.restart_with_allocator()
    args = parse_arguments()
    args.work.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(args.seed)
    prepare(args)
    tokenizer = Tokenizer.from_file(str(args.work / "tokenizer.json"))
    batches = Batches(np.load(args.work / "train.npy"), np.load(args.work / "train-prose.npy"), tokenizer, args.seed)
    held_text = (args.work / "held-out.txt").read_text(encoding="utf-8")
    held_ids = np.array(tokenizer.encode(held_text, add_special_tokens=False).ids, dtype=np.int32)

    model = make_model(args)
    parameters = sum(p.numel() for p in model.parameters())
    log(f"{parameters} parameters; {len(batches.ids)} training tokens, {len(held_ids)} held-out tokens "
        f"({len(held_text.encode()) / len(held_ids):.2f} bytes per token)")
    matrices = [p for layer in model.model.layers for p in layer.parameters() if p.ndim == 2]
    norms = [p for p in model.parameters() if p.ndim == 1]
    embedding = [model.model.embed_tokens.weight]
    optimisers = [
        Muon(matrices, lr=args.matrix_lr, weight_decay=args.weight_decay),
        torch.optim.AdamW(
            [{"params": embedding, "weight_decay": args.weight_decay}, {"params": norms, "weight_decay": 0.0}],
            lr=args.other_lr, betas=(0.9, 0.95), fused=True),
    ]
    for module in model.model.layers.modules():
        if type(module) is torch.nn.Linear:
            module.__class__ = FakeQuantised
    for layer in model.model.layers:
        layer.self_attn.o_proj.dropout = layer.mlp.down_proj.dropout = args.dropout

    step, tokens = 0, 0
    checkpoint = args.work / "checkpoint.pt"
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(state["model"])
        for optimiser, saved in zip(optimisers, state["optimisers"]):
            optimiser.load_state_dict(saved)
        step, tokens = state["step"], state["tokens"]
        log(f"going on from step {step}")
    body = torch.compile(model.model, dynamic=False) if args.compile else model.model

    began, began_tokens, average = time.time(), tokens, None
    last = min(args.steps, args.stop or args.steps)
    while step < last:
        factor, decaying = schedule(step, args)
        for optimiser, rate in zip(optimisers, (args.matrix_lr, args.other_lr)):
            for group in optimiser.param_groups:
                group["lr"] = rate * factor
        FakeQuantised.active = decaying and step % 2 == 1
        length, count = (1024, args.batch // 2) if decaying else (512, args.batch)
        inputs, targets = batches.get(step, count, length, args.prose if decaying else 1)
        loss = loss_of(model, inputs, targets, body=body) / targets.numel()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimiser in optimisers:
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        FakeQuantised.active = False
        if not math.isfinite(loss.item()):
            sys.exit(f"the loss is {loss.item()} at step {step}")
        step += 1
        tokens += targets.numel()
        average = loss.item() if average is None else 0.97 * average + 0.03 * loss.item()
        if step % 10 == 0:
            speed = (tokens - began_tokens) / (time.time() - began)
            left = (last - step) * targets.numel() / speed
            log(f"step {step}/{args.steps} loss {average:.4f} rate {factor:.3f} "
                f"{speed:.0f} tokens/s, {left / 60:.0f} min left")
        if step % args.save_every == 0 or step == last:
            save_checkpoint(checkpoint, model, optimisers, step, tokens)
        if step % args.eval_every == 0 or step == last:
            held = held_out_loss(model, held_ids)
            log(f"step {step} held-out loss {held:.4f} perplexity {math.exp(held):.2f}")
        if args.export_every and step % args.export_every == 0 and step < last:
            export(model, args, args.out)
    FakeQuantised.active = True
    held4 = held_out_loss(model, held_ids)
    FakeQuantised.active = False
    log(f"held-out loss with 4-bit weights {held4:.4f}")
    export(model, args, args.out)
    log(f"wrote {args.out}")


if __name__ == "__main__":
    main()
