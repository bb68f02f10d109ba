"""Generated images that show nothing: those that are not finite before they become pixels, and
those of one colour. They resemble no training image, so a broken model would look like one that
does not copy."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from utils.files.generation_folder import DEGENERATE
from utils.runtime.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image

KEY = DEGENERATE  # of a manifest's row, with one of KINDS; of a manifest, with the counts
NOT_FINITE, ONE_COLOUR = "not finite", "one colour"
KINDS = (NOT_FINITE, ONE_COLOUR)
JUDGED_AFTER = 16  # images of a process after which a generation of mostly such images stops


@contextlib.contextmanager
def watched(pipeline: Any) -> Iterator[list[bool]]:
    """Watch the decoder of a pipeline until the end of the block. Its values are looked at here,
    since the pipeline then clamps them.

    Yields: a list that gets, for every decoded image, whether all of its values are finite; of a
    pipeline without an autoencoder its caller adds them by `look`."""
    finite: list[bool] = []

    def seen(module: Any, inputs: Any, output: torch.Tensor) -> None:
        look(finite, output)

    decoder = pipeline.vae.decoder if hasattr(pipeline, "vae") else torch.nn.Identity()
    handle = decoder.register_forward_hook(seen)
    try:
        with warnings.catch_warnings():
            # said of values that are not finite when they become pixels
            warnings.filterwarnings("ignore", "invalid value encountered in cast")
            yield finite
    finally:
        handle.remove()


def look(finite: list[bool], pixels: torch.Tensor) -> None:
    """Add whether all values of each image are finite. pixels: [B, ...], before they are
    clamped."""
    finite.extend(torch.isfinite(pixels).flatten(1).all(1).tolist())


def note_of(image: Image, finite: bool) -> dict[str, str]:
    """What the manifest's row records of an image: {KEY: a kind}, or {} of an image that shows
    something. finite: whether its values were, before they became pixels."""
    if not finite:
        return {KEY: NOT_FINITE}
    # None if there are more colours than one
    return {KEY: ONE_COLOUR} if image.convert("RGB").getcolors(1) else {}


def counts_of(rows: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """How many of the manifest's rows are of each kind: {kind: number}."""
    found = [row[KEY] for row in rows if KEY in row]
    return {kind: found.count(kind) for kind in KINDS}


def summary(rows: Sequence[Mapping[str, Any]]) -> str | None:
    """A line for the user that counts such images and names the first; None without any."""
    found = [row for row in rows if KEY in row]
    if not found:
        return None
    counts = counts_of(found)
    return (
        f"{len(found)} of {len(rows)} images show nothing ({counts[NOT_FINITE]} not finite,"
        f" {counts[ONE_COLOUR]} of one colour), the first: {found[0]['file']}"
    )


def require_pictures(rows: Sequence[Mapping[str, Any]], *, precision: str) -> None:
    """Raise DataError if most of the manifest's rows are of images that show nothing.

    precision: --mixed_precision, for the advice."""
    line, found = summary(rows), sum(KEY in row for row in rows)
    if line is None or 2 * found <= len(rows):
        return
    advice = "use other weights"
    if precision == "fp16":
        advice = "use --mixed_precision bf16, or other weights"
    raise DataError(
        f"{line}; such images say nothing about what a model copies, so the generation stops;"
        f" {advice}"
    )


def stopping(rows: Iterable[dict[str, Any]], *, precision: str) -> Iterator[dict[str, Any]]:
    """Yield a manifest's rows as they come; DataError as soon as most of them, from the
    JUDGED_AFTERth on, are of images that show nothing. precision: as require_pictures."""
    seen: list[dict[str, Any]] = []
    for row in rows:
        seen.append(row)
        if len(seen) >= JUDGED_AFTER:
            require_pictures(seen, precision=precision)
        yield row
