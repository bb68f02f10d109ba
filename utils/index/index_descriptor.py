"""What made the vectors of an index, and whether two descriptors' vectors can be compared."""

import json

from utils.retrieval.descriptors import extractors
from utils.runtime.errors import UsageError

# entries of a descriptor's record that are as the flag says it: known before any network loads
AS_GIVEN = ("pt_style", "arch", "preset", "multiscale", "layer")


def descriptor_record(opts, descriptor):
    """What made the vectors of an index. descriptor: Extractor. Returns: dict of JSON types."""
    return json.loads(json.dumps({"pt_style": opts.pt_style} | descriptor.record))


def require_descriptor(opts, root, held, record=None):
    """UsageError naming the flag unless the descriptor of these options is the one that made an
    index.

    root: of the index; held: what made its vectors; record: as descriptor_record, else what flags
    alone tell is compared."""
    record = record or held | {key: getattr(opts, key) for key in AS_GIVEN if key in held}
    key = differing(record, held)
    if key is not None:
        name = extractors.FLAGS.get(key, key)
        name = name if hasattr(opts, name) else "pt_style"
        raise UsageError(
            f"--{name}={getattr(opts, name)!r}: the index {str(root)!r} was made with {key}"
            f" {held.get(key)!r}, not {record.get(key)!r}; takes the same, or another index"
        )


def differing(found, expected):
    """The first entry in which two descriptors differ; None if their vectors can be compared.

    A precision or a file's name is no difference: half precision moves a score by some 1e-3, and
    weights have a hash."""
    keys = dict.fromkeys((*expected, *found))
    return next(
        (k for k in keys if k not in ("dtype", "weights") and found.get(k) != expected.get(k)), None
    )


def difference(found, expected):
    """`differing` in words; None if there is nothing to say."""
    key = differing(found, expected)
    return None if key is None else f"{key} {found.get(key)!r}, not {expected.get(key)!r}"
