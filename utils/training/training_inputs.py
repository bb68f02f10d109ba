"""The inputs of a training run: images, captions and weights, read and checked before any model
loads."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from utils.data import (
    caption_files,
    caption_layouts,
    data_sources,
    duplication,
    folder_repeats,
    image_sets,
    prompt_styles,
    recognised,
)
from utils.data.buckets import Buckets
from utils.data.field_names import Columns
from utils.data.image_sets import ImageSet
from utils.reports.progress import progress
from utils.runtime import launching
from utils.runtime.errors import UsageError, require_file

MANY = 5000  # images that take long enough to read for a bar


@dataclass(frozen=True)
class InputFiles:
    """Files and folders of a run, and how they are read."""

    images: str  # --instance_data_dir: a folder or tar shards
    captions: str | None  # --instance_prompt_loc; None looks beside the images
    columns: Columns  # of captions files: --caption_column, --image_column
    weights: str | None  # --weights_file
    prompt_style: str  # --class_prompt
    max_bad: float  # share or number of images that may be unreadable
    workers: int  # processes that read images
    folder_repeats: bool = True  # whether folders such as 10_cat give weights; --no_folder_repeats


@dataclass(frozen=True)
class TrainingInputs:
    """What a run trains on."""

    images: ImageSet  # N images that can be read
    texts: dict[str, list[str]] | None  # {image key: its captions}; None where prompts need none
    # [N] float64: of --weights_file, times the repeats of folders; None: all are equal
    weights: np.ndarray | None
    texts_from: str | None  # where the captions were found, in words; None without captions
    buckets: Buckets | None = None  # the aspect-ratio bucket of each image; None shows squares

    def take(self, indices: np.ndarray) -> TrainingInputs:
        """The images at `indices`, with all that belongs to each."""
        return replace(
            self,
            images=self.images.take(indices),
            weights=None if self.weights is None else self.weights[indices],
            buckets=None if self.buckets is None else self.buckets.take(indices),
        )

    def recognised(self) -> dict[str, Any]:
        """What was recognised of the images and their captions, as JSON types."""
        found: dict[str, Any] = {"images": recognised.of_images(self.images)}
        if self.weights is not None:
            found["images_of_weight"] = recognised.of_weights(self.weights)
        if self.buckets is not None:
            found["buckets"] = self.buckets.record(self.images.keys)
        if self.texts is not None and self.texts_from is not None:
            found["captions"] = recognised.of_captions(self.texts, self.texts_from)
        return found


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


def _named_captions(files, images, say):
    """Captions of the images from the file of --instance_prompt_loc."""
    texts, foreign = caption_files.read_captions(files.captions, images, files.columns)
    if foreign:
        say(caption_files.foreign_line(foreign))
    return texts


def _repeats(files, images, say):
    """The repeats that folders are named with, or None."""
    if not files.folder_repeats:
        return None
    found, line = folder_repeats.find(images)
    if line:
        say(line)
    return found


def _with_classes(found, images, repeats, say):
    """Captions of all images, and where they were found: those without one have their class, as
    kohya's trainer does it. found: captions beside the images, or None."""
    given = {} if found is None else found.captions
    missing = sum(key not in given for key in images.keys)
    if missing:
        say(f"{missing} of {len(images)} images have no text: their caption is their class")
    source = "the names of folders"
    if found is not None:
        source = f"{found.layout} and {source}" if missing else found.layout
    return {**repeats.captions(images), **given}, source


def _captions_beside(files, images, beside, repeats, say):
    """Captions that lie beside the images, when no file was named, and where; None twice where the
    prompt style can do without. beside: captions inside tar files, or None for a folder; repeats:
    of folders, whose class is the caption of images without one, or None."""
    style = prompt_styles.PROMPT_STYLES[files.prompt_style]
    if beside is not None:
        if not style.needs_captions:
            return None, None
        texts = caption_files.require_all(
            files.images,
            beside,
            images,
            within="their file",
            reasons=caption_files.faults_of(beside),
            advice="use files with captions, or --instance_prompt_loc",
        )
        return texts, "the files that hold the images"
    found = caption_layouts.find(images, files.columns)
    if found is None:
        if style.needs_captions and repeats is not None:
            return _with_classes(None, images, repeats, say)
        if style.needs_captions:
            raise UsageError(caption_layouts.none_found(files.prompt_style, files.images))
        return None, None
    if not style.needs_captions and not prompt_styles.are_ids(found.captions):
        say(f"{found.layout} holds text, not lists of token ids: random captions are drawn")
        return None, None
    say(found.line)
    if style.needs_captions and repeats is not None:
        return _with_classes(found, images, repeats, say)
    texts = caption_files.require_all(images.root, found.captions, images, within=found.layout)
    return texts, found.layout


def _say_unused_captions(files, images, beside, say):
    """A line for captions that --class_prompt does not use. A captions file is read all the same,
    so that a wrong one is refused and not taken for one that was used."""
    accepted = [n for n, style in prompt_styles.PROMPT_STYLES.items() if style.needs_captions]
    others = (
        f" not used under --class_prompt={files.prompt_style!r}; for training on them use"
        f" --class_prompt {' or '.join(accepted)}"
    )
    if files.captions is None:
        place = caption_layouts.present(images)
        if place is not None or beside:
            say(f"captions lie beside the images ({place or 'in their file'}) and are{others}")
        for flag, name in files.columns.named():
            say(
                f"{flag}={name!r} has no effect: --class_prompt={files.prompt_style!r} has no"
                " captions"
            )
        return
    entries = caption_files.read_file(
        require_file("--instance_prompt_loc", files.captions), files.columns
    )
    say(
        f"--instance_prompt_loc={files.captions!r} has no effect: its captions of {len(entries)}"
        f" images are{others}"
    )


def _texts(files, images, beside, repeats, say):
    """Captions of the images, from a file or from beside them, and where they were found; None
    twice where the style uses none."""
    if not prompt_styles.PROMPT_STYLES[files.prompt_style].uses_captions:
        _say_unused_captions(files, images, beside, say)
        return None, None
    if files.captions is not None:
        texts, source = _named_captions(files, images, say), files.captions
    else:
        texts, source = _captions_beside(files, images, beside, repeats, say)
    caption_layouts.say_empty((texts or {}).values(), say)
    return texts, source


def _weights(path, images, repeats, say):
    """Weights of --weights_file times repeats, [N]; None where all are equal."""
    repeated = None if repeats is None else repeats.weights(images)
    if repeated is not None and (repeated == repeated[0]).all():
        repeated = None
    if not path:
        return repeated
    weights, unnamed = duplication.read_weights("--weights_file", path, images)
    if unnamed:
        say(f"--weights_file does not name {unnamed} of {len(images)} images; their weight is 1")
    return weights if repeated is None else weights * repeated


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
    images, beside = data_sources.list_data(
        "--instance_data_dir", files.images, columns=files.columns, say=say
    )
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
    repeats = _repeats(files, images, say)
    if repeats is not None:
        images = replace(images, classes=repeats.classes)
    weights = _weights(files.weights, images, repeats, say)
    texts, texts_from = _texts(files, images, beside, repeats, say)
    check = prompt_styles.PROMPT_STYLES[files.prompt_style].check
    if check is not None:
        check(images, texts)
    return TrainingInputs(images, texts, weights, texts_from)
