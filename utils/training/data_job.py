"""From the options to the data of a run: images, captions, splits and draws, without a model."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from utils.data import buckets, duplication, prompt_styles, training_data, transforms
from utils.runtime.errors import UsageError
from utils.training import train_mitigations, training_inputs
from utils.training.regularisation import CLASS_IMAGES
from utils.training.resharding import Resharding

if TYPE_CHECKING:
    from utils.cli.train_options import TrainOptions
    from utils.data.buckets import Size
    from utils.data.encoder_window import Window
    from utils.data.image_sets import ImageSet
    from utils.data.training_data import CaptionedImages
    from utils.runtime.parallel import Team
    from utils.training.preservation_job import ClassData
    from utils.training.train_mitigations import TrainHooks
    from utils.training.training_inputs import TrainingInputs


def checked_data(opts: TrainOptions, say: Callable[[str], None]) -> TrainingInputs:
    """Images, captions and weights, read and checked before any model loads. say: prints a line."""
    files = training_inputs.InputFiles(
        images=opts.instance_data_dir,
        captions=opts.instance_prompt_loc,
        columns=opts.columns,
        weights=opts.weights_file,
        prompt_style=opts.class_prompt,
        max_bad=opts.max_bad_images,
        workers=opts.num_workers,
        folder_repeats=not opts.no_folder_repeats,
    )
    return training_inputs.checked_inputs(
        files,
        holdout=opts.holdout,
        subset=opts.trainsubset,
        copies=opts.clients_num,
        say=say,
    )


def mitigations_of(
    opts: TrainOptions, *, corrects_bank: bool = False
) -> tuple[train_mitigations.TrainMitigation, ...]:
    """The train-time mitigations that the options turn on; UsageError when two exclude each
    other. corrects_bank: as in Step."""
    values = {name: getattr(opts, name) for name in train_mitigations.flag_names()}
    values["agc_bias_correction"] |= corrects_bank
    return train_mitigations.chosen(values)


def without_held_out(
    opts: TrainOptions, data: TrainingInputs, seed: int
) -> tuple[TrainingInputs, ImageSet]:
    """Set the images of --holdout aside. Returns: what the run may train on, the images that it
    never draws."""
    held = duplication.held_out(len(data.images), opts.holdout, seed)
    aside = data.images.take(held)
    if not len(held):
        return data, aside
    return data.take(np.setdiff1d(np.arange(len(data.images)), held)), aside


def prompts_of(
    opts: TrainOptions, images: ImageSet, data: TrainingInputs, tokenizer: Any, seed: int
) -> dict[str, list[str]]:
    """The prompts of images, some of those of `data`: {image key: prompts}."""
    return prompt_styles.resolve_prompts(
        opts.class_prompt,
        images,
        captions=data.texts,
        tokenizer=tokenizer,
        seed=seed,
        template=opts.caption_template,
        prompt=opts.instance_prompt,
    )


def hooks_and_data(
    opts: TrainOptions,
    data: TrainingInputs,
    tokenizer: Any,
    seed: int,
    *,
    window: Window | None = None,
    corrects_bank: bool = False,
) -> tuple[CaptionedImages, list[str], TrainHooks]:
    """What follows from options and data without a model. data: without the images of --holdout;
    window: what the model reads of a caption, None is the tokenizer's length; corrects_bank: as in
    Step. Returns: (CaptionedImages, keys of duplicated images, TrainHooks)."""
    if opts.trainsubset:
        data = data.take(duplication.subset(len(data.images), opts.trainsubset, seed))
    prompts = prompts_of(opts, data.images, data, tokenizer, seed)
    captioned, duplicated = training_data.captioned_images(
        data.images,
        prompts,
        style=opts.duplication,
        share=opts.weight_pc,
        weight=opts.dup_weight,
        seed=seed,
        weights=data.weights,
        in_buckets=data.buckets,
    )
    hooks = train_mitigations.train_hooks(
        mitigations_of(opts, corrects_bank=corrects_bank),
        choice=duplication.DUPLICATIONS[opts.duplication],
        tokenizer=tokenizer,
        window=window,
        dropout=opts.caption_dropout,
    )
    return captioned, duplicated, hooks


def _classes(opts: TrainOptions, images: ImageSet) -> list[str] | None:
    """The class of each image, None where the splits are not balanced by it; UsageError where an
    image is in no folder."""
    if opts.shards_by != "class":
        return None
    found = [prompt_styles.class_of(key, images.classes) for key in images.keys]
    if None in found:
        raise UsageError(
            "--shards_by='class' needs a folder for each class; the image"
            f" {images.keys[found.index(None)]!r} is in none"
        )
    return [str(name) for name in found]


def splits_of(opts: TrainOptions, captioned: CaptionedImages, seed: int) -> list[np.ndarray]:
    """Indices of the images of each split; UsageError when a split has nothing to draw."""
    groups = _classes(opts, captioned.images)
    splits = training_data.split_images(
        len(captioned.images), opts.clients_num, seed, groups=groups
    )
    weights = captioned.weights
    if weights is not None and not all(weights[part].sum() > 0 for part in splits):
        raise UsageError(
            f"--weights_file={opts.weights_file!r} leaves nothing to draw in a split or subset;"
            " use more images with a weight above 0, or fewer --clients_num"
        )
    return splits


def resharding_of(
    opts: TrainOptions, captioned: CaptionedImages, splits: list[np.ndarray]
) -> Resharding | None:
    """What lets images change their split between rounds, or None."""
    if opts.agc_reshard is None:
        return None
    groups = _classes(opts, captioned.images)
    return Resharding(captioned, splits, share=opts.agc_reshard, groups=groups)


def views_of(opts: TrainOptions) -> transforms.Views:
    """How images are shown in training."""
    return transforms.Views(opts.resolution, opts.center_crop, opts.random_flip)


def bucket_sizes(opts: TrainOptions, multiple: int) -> list[Size] | None:
    """The sizes of --aspect_ratio_buckets; None where all images are shown as squares. multiple: of
    pixels, which divides the sides that the model takes."""
    given = opts.aspect_ratio_buckets
    if given is None:
        return None
    return buckets.listed(given) or buckets.automatic(opts.resolution, multiple)


def draws_of(
    opts: TrainOptions,
    captioned: CaptionedImages,
    splits: list[np.ndarray],
    hooks: TrainHooks,
    *,
    team: Team,
    seed: int,
    classes: ClassData | None,
) -> dict[int, training_data.Draws]:
    """{split: its Draws}, of the splits that this process's team trains. classes: class images,
    which are drawn beside them."""
    shown: dict[str, Any] = {
        "global_batch": opts.train_batch_size * team.size,
        "views": views_of(opts),
    }

    def beside(split):
        if classes is None:
            return {}
        return {CLASS_IMAGES: classes.draws(seed=seed, split=split, **shown)}

    return {
        k: training_data.Draws(
            captioned.take(splits[k]),
            seed=seed,
            split=k,
            choose_caption=hooks.choose_caption,
            dropout=hooks.dropout,
            partners=hooks.partners,
            beside=beside(k),
            **shown,
        )
        for k in range(team.number, len(splits), team.count)
    }
