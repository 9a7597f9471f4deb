"""Operations that make training on a CPU with bfloat16 matrix instructions fast.

PyTorch's own ones spend most of a step outside of bfloat16 matrix products: the
backward pass of its attention and the float32 logits of its cross entropy.
"""

import ctypes
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

ROWS = 512  # positions whose logits exist at once

# Large temporaries stay with the process, in huge pages: by default, glibc returns
# each to the system, and the next step pays for every page again.
ALLOCATOR = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(1 << 40),
    "MALLOC_TOP_PAD_": str(512 << 20),
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
}


def restart_with_allocator():
    """Starts the program again with the allocator's settings, which are read at start only."""
    if any(name not in os.environ for name in ALLOCATOR):
        os.execve(sys.executable, [sys.executable, *sys.argv], {**ALLOCATOR, **os.environ})


class Tensor(ctypes.Structure):
    _fields_ = [("data", ctypes.c_void_p), *((name, ctypes.c_int64) for name in ("batch", "head", "row"))]


def _c(x):
    """A [batch, heads, length, 32] tensor as attention.c takes it."""
    assert x.dtype == torch.bfloat16 and x.stride(3) == 1
    return Tensor(x.data_ptr(), *x.stride()[:3])


def load_attention():
    """Compiles attention.c; None where the CPU or the compiler cannot do it."""
    try:
        flags = Path("/proc/cpuinfo").read_text().split()
    except OSError:
        return None
    if not {"amx_bf16", "avx512_bf16"} <= set(flags):
        return None
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "attention.so"
        source = Path(__file__).with_name("attention.c")
        options = ["-O3", "-march=sapphirerapids", "-shared", "-fPIC", "-fopenmp"]
        try:
            subprocess.run(["gcc", *options, str(source), "-o", str(library), "-lm"], check=True)
        except (OSError, subprocess.CalledProcessError):
            return None
        loaded = ctypes.CDLL(str(library))
    return loaded if loaded.prepare() == 0 else None


NATIVE = load_attention()


def _new(batch, heads, length, d, like):
    """[batch, heads, length, d], each position's heads side by side."""
    return like.new_empty(batch, length, heads, d).transpose(1, 2)


@torch.library.custom_op("demo::attention", mutates_args=())
def attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Causal attention, and the logarithm of each query's sum of exponentials."""
    batch, heads, length, d = q.shape
    assert d == 32 and length % 32 == 0
    out = _new(batch, heads, length, d, q)
    lse = torch.empty(batch, heads, length)
    NATIVE.forward(
        _c(q), _c(k), _c(v), _c(out), ctypes.c_void_p(lse.data_ptr()), batch, heads, k.shape[1], length
    )
    return out, lse


@attention.register_fake
def _(q, k, v):
    return _new(*q.shape, q), q.new_empty(q.shape[:3], dtype=torch.float32)


@torch.library.custom_op("demo::attention_backward", mutates_args=())
def attention_backward(
    d_out: torch.Tensor, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, out: torch.Tensor, lse: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    batch, heads, length, _ = q.shape
    d_out = d_out.contiguous()
    grads = [_new(*x.shape, x) for x in (q, k, v)]
    NATIVE.backward(
        _c(q), _c(k), _c(v), _c(out), ctypes.c_void_p(lse.data_ptr()), _c(d_out), *(_c(x) for x in grads),
        batch, heads, k.shape[1], length,
    )
    return tuple(grads)


@attention_backward.register_fake
def _(d_out, q, k, v, out, lse):
    return tuple(_new(*x.shape, x) for x in (q, k, v))


def _setup(ctx, inputs, output):
    ctx.save_for_backward(*inputs, *output)


def _backward(ctx, d_out, _):
    return attention_backward(d_out, *ctx.saved_tensors)


attention.register_autograd(_backward, setup_context=_setup)


def attention_for_transformers(module, query, key, value, attention_mask, **_):
    """Causal attention behind the interface of transformers (`AttentionInterface.register`)."""
    assert attention_mask is None, "only causal attention without padding"
    query, key, value = (x.to(torch.bfloat16) for x in (query, key, value))
    if NATIVE is None:
        out = torch.nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True)
    else:
        out, _ = attention(query, key, value)
    return out.transpose(1, 2).contiguous(), None


@torch.library.custom_op("demo::keep", mutates_args=(), tags=torch.Tag.nondeterministic_seeded)
def _keep(x: torch.Tensor, dropped: int) -> torch.Tensor:
    """For each value of x, whether a random byte is at least `dropped`."""
    words = torch.empty((x.numel() + 7) // 8, dtype=torch.int64).random_(-(2**63), None)
    return (words.view(torch.uint8)[: x.numel()] >= dropped).view(x.shape)


@_keep.register_fake
def _(x, dropped):
    return x.new_empty(x.shape, dtype=torch.bool)


def dropout(x, rate):
    """Dropout with a rate in steps of 1/256; the random numbers of a compiled one take longer than a layer."""
    dropped = round(rate * 256)
    return torch.where(_keep(x, dropped), x * (256 / (256 - dropped)), 0.0)


class CrossEntropy(torch.autograd.Function):
    """Sum of -ln p of the targets, from hidden states and the output head.

    Logits, in float32 after a bfloat16 product, exist for some positions at a time;
    the gradients are computed with them.
    """

    @staticmethod
    def forward(ctx, hidden, head, targets):
        h, w = hidden.to(torch.bfloat16), head.to(torch.bfloat16)
        total = torch.zeros((), dtype=torch.float64)
        needed = ctx.needs_input_grad[0]
        d_hidden, d_head = (torch.empty_like(h), torch.zeros_like(head, dtype=torch.float32)) if needed else (None, None)
        for start in range(0, len(h), ROWS):
            part, wanted = h[start : start + ROWS], targets[start : start + ROWS, None]
            p = torch.log_softmax((part @ w.T).float(), -1)
            total -= p.gather(1, wanted).sum(dtype=torch.float64)
            if needed:
                p.exp_().scatter_add_(1, wanted, torch.full(wanted.shape, -1.0))
                grad = p.to(torch.bfloat16)
                d_hidden[start : start + ROWS] = grad @ w
                d_head += grad.T @ part
        if needed:
            ctx.save_for_backward(d_hidden, d_head)
        return total.float()

    @staticmethod
    def backward(ctx, scale):
        d_hidden, d_head = ctx.saved_tensors
        return d_hidden.float() * scale, d_head * scale, None
