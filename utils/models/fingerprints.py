"""Short names for what determines a result: a key of JSON facts, and a fingerprint of weights."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


def key_of(**facts: Any) -> str:
    """A key of named facts, which must be JSON values. Returns: 16 hex digits."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def fingerprint(module: torch.nn.Module) -> str:
    """A hash of a network that does not read gigabytes: the name, the shape and the first 64 values
    of every tensor. Returns: 64 hex digits."""
    digest = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        first = tensor.detach().flatten()[:64].float().cpu().numpy()
        digest.update(f"{name} {tuple(tensor.shape)}".encode() + first.tobytes())
    return digest.hexdigest()
