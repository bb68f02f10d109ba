"""Which descriptor computed the vectors of an index, and whether two descriptors can be
compared."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from utils.retrieval.descriptors import extractors
from utils.retrieval.descriptors.network import Extractor
from utils.retrieval.evaluation_request import DescriptorChoice
from utils.runtime.errors import UsageError

DescriptorRecord = Mapping[str, Any]  # what made the vectors, of JSON types

# entries of a record that are as their flags give them: known before a network loads
AS_GIVEN = ("pt_style", "arch", "preset", "multiscale", "layer")
# entries that make no difference: half precision changes a score by some 1e-3, and weights have a
# hash
IGNORED = ("dtype", "weights")


def descriptor_record(choice: DescriptorChoice, descriptor: Extractor) -> dict[str, Any]:
    """What index.json records of the descriptor that computes the vectors."""
    return json.loads(json.dumps({"pt_style": choice.pt_style} | descriptor.record))


def require_descriptor(
    choice: DescriptorChoice,
    root: str | Path,
    held: DescriptorRecord,
    record: DescriptorRecord | None = None,
) -> None:
    """Raise UsageError, naming the flag, unless this choice is the descriptor that made an index.

    root: of the index
    held: the record in index.json
    record: that of the descriptor, if it was built; else what the flags alone tell is compared"""
    if record is None:
        record = {**held, **{key: getattr(choice, key) for key in AS_GIVEN if key in held}}
    key = differing(record, held)
    if key is not None:
        name = extractors.FLAGS.get(key, key)
        name = name if hasattr(choice, name) else "pt_style"
        raise UsageError(
            f"--{name}={getattr(choice, name)!r}: the index {str(root)!r} was made with {key}"
            f" {held.get(key)!r}, not {record.get(key)!r}; use the same value, or another index"
        )


def differing(record: DescriptorRecord, expected: DescriptorRecord) -> str | None:
    """The first entry in which two records differ; None if their vectors can be compared."""
    keys = dict.fromkeys((*expected, *record))
    return next(
        (k for k in keys if k not in IGNORED and record.get(k) != expected.get(k)),
        None,
    )


def difference(record: DescriptorRecord, expected: DescriptorRecord) -> str | None:
    """A phrase on the first entry in which two records differ; None if their vectors can be
    compared."""
    key = differing(record, expected)
    return None if key is None else f"{key} {record.get(key)!r}, not {expected.get(key)!r}"
