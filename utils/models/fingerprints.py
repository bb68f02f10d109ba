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
    import torch

    digest = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        values = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
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
