"""Short names for what determines a result: a key of JSON facts, and a fingerprint of weights."""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


def key_of(**facts: Any) -> str:
    """A key of named facts, which must be JSON values. Returns: 16 hex digits."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def of_networks(networks: Mapping[str, torch.nn.Module]) -> dict[str, str]:
    """Fingerprints of networks by name, such as the parts of a pipeline."""
    return {part: fingerprint(network) for part, network in networks.items()}


def fingerprint(module: torch.nn.Module) -> str:
    """A hash of a network: the name, the shape and a checksum of all values of every tensor. A
    gigabyte of weights takes about a second. Returns: 64 hex digits."""
    return _fingerprint(module, None)


def precisions(module: torch.nn.Module) -> tuple[str, ...]:
    """The dtypes in which the weights of a network are known from what is loaded: float32 and what
    it can be rounded to, or one half precision alone."""
    import torch

    own = next(p.dtype for p in module.parameters() if p.is_floating_point())
    known = (own,) if own != torch.float32 else (own, torch.float16, torch.bfloat16)
    return tuple(str(each).removeprefix("torch.") for each in known)


def in_precision(module: torch.nn.Module, precision: str) -> str:
    """The fingerprint of a network's weights rounded to one of its `precisions`. Loaded from the
    same file, in whatever dtype, networks agree wherever both know that precision."""
    import torch

    return _fingerprint(module, getattr(torch, precision))


def in_precisions(module: torch.nn.Module) -> dict[str, str]:
    """{precision: fingerprint in it} of all `precisions` of a network."""
    return {name: in_precision(module, name) for name in precisions(module)}


def _fingerprint(module: torch.nn.Module, dtype: torch.dtype | None) -> str:
    """dtype: to which values are rounded first, if any."""
    import torch

    digest = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        rounded = tensor.to(dtype) if dtype and tensor.is_floating_point() else tensor
        values = rounded.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
        digest.update(f"{name} {tuple(tensor.shape)} {zlib.crc32(values)}\n".encode())
    return digest.hexdigest()


def fingerprint_of_beginnings(module: torch.nn.Module) -> str:
    """The hash that runs of earlier versions recorded, with which they are compared: the name, the
    shape and the first 64 values of every tensor. Returns: 64 hex digits."""
    digest = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        first = tensor.detach().flatten()[:64].float().cpu().numpy()
        digest.update(f"{name} {tuple(tensor.shape)}".encode() + first.tobytes())
    return digest.hexdigest()
