"""Weight quantisation with the rules of ggml's Q8_0 and Q4_0.

Groups of 32 consecutive values along the input dimension (K) share one f16
scale. The functions return the values that the quantised matrix stands for.
"""

import torch

GROUP = 32


def dequantised_w8(weight):
    """Q8_0: d = max|x| / 127; q = round(x / d), halves away from zero; value = q * f16(d)."""
    shape = weight.shape
    x = weight.detach().to(torch.float32).reshape(-1, GROUP)
    d = x.abs().amax(dim=1, keepdim=True) / 127.0
    inverse = torch.where(d == 0, torch.zeros_like(d), 1.0 / d)
    scaled = x * inverse
    q = torch.sign(scaled) * torch.floor(scaled.abs() + 0.5)
    return (q * d.to(torch.float16).to(torch.float32)).reshape(shape)


def dequantised_w4(weight):
    """Q4_0: m = the value of largest magnitude, with its sign; d = m / -8;
    q = min(15, floor(x / d + 8.5)); value = (q - 8) * f16(d)."""
    shape = weight.shape
    x = weight.detach().to(torch.float32).reshape(-1, GROUP)
    index = x.abs().argmax(dim=1, keepdim=True)
    d = x.gather(1, index) / -8.0
    inverse = torch.where(d == 0, torch.zeros_like(d), 1.0 / d)
    q = torch.clamp(torch.floor(x * inverse + 8.5), max=15.0)
    return ((q - 8.0) * d.to(torch.float16).to(torch.float32)).reshape(shape)


DEQUANTISED = {"w8g32": dequantised_w8, "w4g32": dequantised_w4}
