"""Linear layers whose weights, which do not learn, are kept in 8 or 4 bits (Dettmers et al. 2023,
QLoRA): a layer restores them for each product, forward and backward.

Weights are cut into blocks of BLOCK values in their order in memory. A block is its largest
magnitude, in float32, and for each weight a code of its share of it, in [-1, 1]. All of it is
torch, so that it runs on any device and needs no other package."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import Module, Parameter, functional

from utils.runtime import devices

BLOCK = 64
# the 16 values of NF4: normal data falls into each equally often, and one of them is 0
# (Dettmers et al. 2023, appendix E)
NF4 = (
    -1.0,
    -0.6961928009986877,
    -0.5250730514526367,
    -0.39491748809814453,
    -0.28444138169288635,
    -0.18477343022823334,
    -0.09105003625154495,
    0.0,
    0.07958029955625534,
    0.16093020141124725,
    0.24611230194568634,
    0.33791524171829224,
    0.44070982933044434,
    0.5626170039176941,
    0.7229568362236023,
    1.0,
)
EIGHT = 127  # the largest code of 8 bits


def _to_int8(shares: torch.Tensor) -> torch.Tensor:
    return (shares * EIGHT).round().to(torch.int8)


def _from_int8(codes: torch.Tensor) -> torch.Tensor:
    return codes.float() / EIGHT


def _to_nf4(shares: torch.Tensor) -> torch.Tensor:
    values = torch.tensor(NF4, device=shares.device)
    nearest = torch.bucketize(shares, (values[1:] + values[:-1]) / 2, out_int32=True)
    first, second = nearest.to(torch.uint8).view(-1, 2).unbind(1)
    return first << 4 | second


def _from_nf4(codes: torch.Tensor) -> torch.Tensor:
    values = torch.tensor(NF4, device=codes.device)
    # a byte holds two codes: all 256 pairs, so that one look-up restores both
    pairs = torch.cartesian_prod(values, values)
    return functional.embedding(codes.int(), pairs).flatten()


@dataclass(frozen=True)
class Format:
    """How the shares of a block are kept."""

    encode: Callable[[torch.Tensor], torch.Tensor]  # float32 [n] in [-1, 1] -> codes
    decode: Callable[[torch.Tensor], torch.Tensor]  # codes -> float32 [n]
    code_bytes: float  # of a weight

    @property
    def weight_bytes(self) -> float:
        """Bytes that a weight takes, with its part of what is kept of the block."""
        return self.code_bytes + 4 / BLOCK


FORMATS = {
    "int8": Format(_to_int8, _from_int8, 1.0),
    "nf4": Format(_to_nf4, _from_nf4, 0.5),
}


def encoded(weight: torch.Tensor, name: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes and magnitudes of a weight. name: in FORMATS. Returns: (codes, [blocks] float32)."""
    flat = weight.detach().float().flatten()
    blocks = functional.pad(flat, (0, -len(flat) % BLOCK)).view(-1, BLOCK)
    largest = blocks.abs().amax(1)
    shares = blocks / largest.clamp_min(torch.finfo(torch.float32).tiny)[:, None]
    return FORMATS[name].encode(shares.flatten()), largest


def decoded(
    codes: torch.Tensor,
    largest: torch.Tensor,
    name: str,
    shape: tuple[int, int],
    dtype: torch.dtype,
) -> torch.Tensor:
    """The weight that `encoded` kept, of a shape and in a dtype."""
    blocks = FORMATS[name].decode(codes).view(-1, BLOCK) * largest[:, None]
    return blocks.flatten()[: shape[0] * shape[1]].view(shape).to(dtype)


class _Product(torch.autograd.Function):
    """x @ W^T + b with a weight that is restored in the backward pass again, instead of being kept
    for it: otherwise all weights would be in memory at once. Neither W nor b has a gradient."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, bias: Any, codes: Any, largest: Any, *form: Any
    ) -> torch.Tensor:
        ctx.save_for_backward(codes, largest)
        ctx.form = form
        return functional.linear(x, decoded(codes, largest, *form), bias)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple:
        return gradients[0] @ decoded(*ctx.saved_tensors, *ctx.form), *[None] * 6


class QuantizedLinear(torch.nn.Linear):
    """A linear layer that does not learn, whose weight is kept in few bits and its bias as it was.
    It computes in the dtype that the weight had."""

    def __init__(self, layer: torch.nn.Linear, name: str):
        """layer: whose weight it takes; name: in FORMATS."""
        Module.__init__(self)  # without making a weight
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.form = (name, (layer.out_features, layer.in_features), layer.weight.dtype)
        # a GPU encodes in seconds what takes a CPU minutes; the codes are the same
        kept = encoded(layer.weight.to(devices.default_device()), name)
        codes, largest = (each.to(layer.weight.device) for each in kept)
        # parameters, and no buffers, which data-parallel training would send at every step
        self.codes = Parameter(codes, requires_grad=False)
        self.largest = Parameter(largest, requires_grad=False)
        self.bias = layer.bias

    @property
    def weight(self) -> torch.Tensor:  # type: ignore[override]
        """The restored weight, [out, in]; made anew at every call."""
        return decoded(self.codes, self.largest, *self.form)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[..., in] -> [..., out] in the dtype that the weight had."""
        return _Product.apply(x.to(self.form[2]), self.bias, self.codes, self.largest, *self.form)


def quantize(network: Module, name: str) -> None:
    """Put QuantizedLinear in the place of every linear layer of a network. name: in FORMATS."""
    for path, layer in list(network.named_modules()):
        if type(layer) is torch.nn.Linear:
            parent, _, own = path.rpartition(".")
            setattr(network.get_submodule(parent), own, QuantizedLinear(layer, name))


def weight_bytes(network: Module, dtype: torch.dtype, name: str | None) -> int:
    """Bytes of a network's parameters in a dtype, with `quantize` by name; None leaves them. The
    network may be on the device "meta"."""
    every = sum(each.numel() for each in network.parameters())
    if name is None:
        return every * dtype.itemsize
    linear = sum(e.weight.numel() for e in network.modules() if type(e) is torch.nn.Linear)
    return (every - linear) * dtype.itemsize + round(linear * FORMATS[name].weight_bytes)
