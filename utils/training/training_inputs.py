"""The inputs of a training run: images, captions and weights, read and checked before any model
loads."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from utils.data import caption_files, data_sources, duplication, image_sets, prompt_styles
from utils.data.image_sets import ImageSet
from utils.reports.progress import progress
from utils.runtime import launching
from utils.runtime.errors import UsageError

MANY = 5000  # images that take long enough to read for a bar


@dataclass(frozen=True)
class InputFiles:
    """Files and folders of a run, and how they are read."""

    images: str  # --instance_data_dir: a folder or tar shards
    captions: str | None  # --instance_prompt_loc; None looks beside the images
    weights: str | None  # --weights_file
    prompt_style: str  # --class_prompt
    max_bad: float  # share or number of images that may be unreadable
    workers: int  # processes that read images


@dataclass(frozen=True)
class TrainingInputs:
    """What a run trains on."""

    images: ImageSet  # N images that can be read
    texts: dict[str, list[str]] | None  # {image key: its captions}; None where prompts need none
    weights: np.ndarray | None  # [N] float64 of --weights_file


def _readable(images, files, say):
    """The images that can be read; a line for each that cannot, and for each empty class."""
    bar = functools.partial(
        progress,
        total=None,
        label="reading images, 256 at once",
        main_process=launching.first_process(),
    )
    images = image_sets.readable(
        "--instance_data_dir",
        images,
        max_bad=files.max_bad,
        workers=files.workers,
        show=bar if len(images) > MANY else lambda spans: spans,
    )
    for key, reason in images.bad:
        say(f"skipped: {key} ({reason})")
    for folder in prompt_styles.empty_classes(images):
        say(f"the folder {folder!r} holds no image and is not a class")
    return images


def _texts(files, images, beside, say):
    """Captions of the images, from a file or from beside them; None where the style uses none."""
    path = files.captions
    if path is None and beside is None and (images.root / "metadata.jsonl").is_file():
        path = images.root / "metadata.jsonl"
    style = prompt_styles.PROMPT_STYLES[files.prompt_style]
    if not style.uses_captions or (path is None and not style.needs_captions):
        return None
    if path is None:
        missing = [k for k in images.keys if k not in beside]
        if missing:
            raise UsageError(
                f"--instance_data_dir={files.images!r}: {len(missing)} of {len(images)}"
                f" images have no .txt or .json member with a caption, first {missing[0]!r}; use"
                " shards with captions, or --instance_prompt_loc"
            )
        return {k: beside[k] for k in images.keys}
    texts, foreign = caption_files.read_captions(path, images)
    if foreign:
        say(
            f"{foreign} captions have paths of another machine; they are matched by the end of the"
            " path"
        )
    return texts


def _weights(path, images, say):
    """Weights of --weights_file, [N], or None."""
    if not path:
        return None
    weights, unnamed = duplication.read_weights("--weights_file", path, images)
    if unnamed:
        say(f"--weights_file does not name {unnamed} of {len(images)} images; their weight is 1")
    return weights


def checked_inputs(
    files: InputFiles,
    *,
    holdout: float = 0.0,
    subset: float | None,
    copies: int,
    say: Callable[[str], None],
) -> TrainingInputs:
    """Read and check images, captions and weights; UsageError names a flag that does not fit them.

    holdout: --holdout, the share of the images that are never drawn; they are among those that are
    returned; subset: --trainsubset, the share of the others that the run uses; copies: of the
    model, each of which needs an image; say: prints a line on the terminal.
    """
    images, beside = data_sources.list_data("--instance_data_dir", files.images)
    images = _readable(images, files, say)
    held = duplication.require_holdout(len(images), holdout)
    if held:
        say(f"--holdout={holdout}: {held} of {len(images)} images are set aside and never drawn")
    kept = len(images) - held
    if subset:
        kept = duplication.require_subset(kept, subset)
    if copies > kept:
        raise UsageError(
            f"--clients_num={copies} splits of {kept} images: use at most one split per image"
        )
    weights = _weights(files.weights, images, say)
    texts = _texts(files, images, beside, say)
    check = prompt_styles.PROMPT_STYLES[files.prompt_style].check
    if check is not None:
        check(images, texts)
    return TrainingInputs(images, texts, weights)
