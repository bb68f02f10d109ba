"""The training stage before its first step: the options become inputs, a model with its plan, and a
record."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from utils.data import buckets, duplication, prompt_styles, training_data, transforms
from utils.generation.sampling import window_of
from utils.models import adapters, fingerprints, parts
from utils.runtime import devices, parallel
from utils.runtime.errors import UsageError
from utils.training import (
    encode_ahead,
    ensemble,
    optimisation,
    preservation_job,
    starting_model,
    steps,
    train_mitigations,
    trained_copy,
    trainer,
    training_inputs,
    training_loop,
)
from utils.training.methods.full_weights import FullWeights
from utils.training.methods.lora import Adapting, Lora
from utils.training.process.base import ProcessSettings
from utils.training.regularisation import CLASS_IMAGES
from utils.training.steps.base import StepSettings

if TYPE_CHECKING:
    from accelerate import Accelerator

    from utils.cli.train_options import TrainOptions
    from utils.data.buckets import Size
    from utils.data.encoder_window import Window
    from utils.data.image_sets import ImageSet
    from utils.data.training_data import CaptionedImages
    from utils.models.parts import Parts
    from utils.runtime.parallel import Processes, Team
    from utils.training.methods.base import Method
    from utils.training.preservation_job import ClassData
    from utils.training.train_mitigations import TrainHooks
    from utils.training.training_inputs import TrainingInputs


@dataclass(frozen=True)
class PreparedRun:
    """A run that is ready for its first step."""

    model: trainer.Trainer
    copies: ensemble.Ensemble  # of this process
    data: CaptionedImages  # of all splits
    splits: list[np.ndarray]  # indices of the images of each split
    duplicated: list[str]  # keys of images that are, or under nodup would be, duplicated
    held_out: dict[str, list[str]]  # prompts of the images of --holdout, which are never drawn
    aside: ImageSet  # these images
    per_step: int  # images of an optimizer step of a copy
    # {network: fingerprint of its weights before training, as versions before 0.3 made it;
    # <network>_content: of all its values}
    identity: dict[str, str]
    classes: ClassData | None = None  # class images, which are drawn beside the training images

    @property
    def plan(self) -> ensemble.EnsemblePlan:
        """How long each copy trains."""
        return self.copies.plan

    @property
    def beside(self) -> dict[str, CaptionedImages]:
        """{name: images} that are drawn beside the training images."""
        return {} if self.classes is None else {CLASS_IMAGES: self.classes.data}

    @property
    def is_ensemble(self) -> bool:
        """Whether there are several copies, or several rounds."""
        return self.plan.splits > 1 or self.plan.rounds > 1


# From options to values ---------------------------------------------------------------------------


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


def _prompts_of(
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
    prompts = _prompts_of(opts, data.images, data, tokenizer, seed)
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


def loop_settings(opts: TrainOptions) -> training_loop.LoopSettings:
    """What the loop does beside the steps."""
    return training_loop.LoopSettings(
        every=training_loop.Intervals(
            rows=opts.log_steps,
            previews=opts.save_steps,
            checkpoints=opts.modelsavesteps,
            ensemble_checkpoints=opts.modelsaverounds,
            states=opts.state_steps or opts.modelsavesteps,
        ),
        previews=training_loop.PreviewSettings(
            count=opts.sample_batch_size,
            seed=opts.generation_seed,
            side=opts.resolution,
            own=opts.validation_prompt,
        ),
        states_kept=opts.checkpoints_total_limit,
        batch_size=opts.train_batch_size,
        workers=opts.num_workers,
    )


def _optimisation(opts: TrainOptions, *, per_step: int, steps: int) -> optimisation.Optimisation:
    """per_step: images of an optimizer step; steps: of a copy in a round."""
    return optimisation.Optimisation(
        optimisation.Adam(
            learning_rate=opts.learning_rate * (per_step if opts.scale_lr else 1),
            encoder_factor=(opts.text_encoder_lr or opts.learning_rate) / opts.learning_rate,
            betas=(opts.adam_beta1, opts.adam_beta2),
            weight_decay=opts.adam_weight_decay,
            epsilon=opts.adam_epsilon,
            max_grad_norm=opts.max_grad_norm,
            name=opts.optimizer_name,
        ),
        optimisation.Schedule(
            name=opts.lr_scheduler,
            warmup_steps=opts.lr_warmup_steps,
            steps=steps * opts.total_round,
        ),
        accumulation=opts.gradient_accumulation_steps,
        use_ema=opts.use_ema,
    )


def _plan(
    opts: TrainOptions, splits: list[np.ndarray], *, per_step: int, teams: int
) -> ensemble.EnsemblePlan:
    longest = max(len(part) for part in splits)
    steps = opts.max_train_steps or opts.num_train_epochs * math.ceil(longest / per_step)
    return ensemble.EnsemblePlan(
        sizes=tuple(len(part) for part in splits),
        rounds=opts.total_round,
        steps=steps,
        teams=teams,
    )


def _classes(images: ImageSet) -> list[str]:
    """The class of each image; UsageError where an image is in no folder."""
    found = [prompt_styles.class_of(key, images.classes) for key in images.keys]
    if None in found:
        raise UsageError(
            "--shards_by='class' needs a folder for each class; the image"
            f" {images.keys[found.index(None)]!r} is in none"
        )
    return [str(name) for name in found]


def _split(opts: TrainOptions, captioned: CaptionedImages, seed: int) -> list[np.ndarray]:
    """Indices of the images of each split; UsageError when a split has nothing to draw."""
    groups = _classes(captioned.images) if opts.shards_by == "class" else None
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


def _draws(
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


def process_settings(opts: TrainOptions) -> ProcessSettings:
    """The flags of the noise process."""
    values = {field.name: getattr(opts, field.name, None) for field in fields(ProcessSettings)}
    return ProcessSettings(**values | {"bins": opts.agc_bins})


def step_settings(opts: TrainOptions) -> StepSettings:
    """The flags of the family's step."""
    scale = 1.0 if opts.guidance_scale is None else opts.guidance_scale
    return StepSettings(opts.max_sequence_length, scale)


def method_of(opts: TrainOptions, seed: int = 0) -> Method:
    """Which weights learn. seed: of the start of what is new."""
    if opts.lora_rank is None:
        return FullWeights()
    shape = adapters.AdapterShape(
        rank=opts.lora_rank,
        alpha=opts.lora_alpha or opts.lora_rank,
        dropout=opts.lora_dropout,
        dora=opts.use_dora,
        freeze_down=opts.lora_freeze_a,
    )
    layers = opts.lora_layers and tuple(name.strip() for name in opts.lora_layers.split(","))
    adapting = Adapting(shape, seed, layers or None, opts.output_kohya_format)
    files = {
        name: value
        for name, value in vars(starting_model.choice_of(opts)).items()
        if value is not None
    }
    return Lora(adapting, opts.pretrained_model_name_or_path, files)


def _load_parts(
    opts: TrainOptions, images: ImageSet, seed: int, say: Callable[[str], None]
) -> tuple[Parts, dict[str, str]]:
    """The base model. say: prints a line. Returns: (Parts, fingerprints of its networks as they
    came)."""
    dtype = method_of(opts, seed).base_dtype(devices.dtype_of(opts.mixed_precision))
    loaded = starting_model.load(opts, images, dtype=dtype, seed=seed, say=say)
    networks = loaded.networks
    identity = {
        name: fingerprints.fingerprint_of_beginnings(network) for name, network in networks.items()
    } | {f"{name}_content": fingerprints.fingerprint(network) for name, network in networks.items()}
    if opts.unet_from_scratch == "yes":
        fresh = parts.from_scratch(loaded.denoiser, seed)
        loaded.replace(**{loaded.denoiser_name: fresh})
    return loaded, identity


def _window(base: Parts, length: int | None) -> Window | None:
    """What the model reads of a caption; None of a model that reads no text."""
    return None if base.tokenizer is None else window_of(base.pipeline, length)


def prepare(
    opts: TrainOptions,
    data: TrainingInputs,
    accelerator: Accelerator,
    seed: int,
    classes: ClassData | None = None,
) -> PreparedRun:
    """Load the model and plan the run. classes: the class images of prior preservation."""
    team = parallel.team(accelerator, opts.clients_num)
    base, identity = _load_parts(opts, data.images, seed, parallel.Processes(accelerator).say)
    data, aside = without_held_out(opts, data, seed)
    captioned, duplicated, hooks = _hooks_and_data_for(opts, data, base, seed)
    splits = _split(opts, captioned, seed)
    per_step = opts.train_batch_size * team.size * opts.gradient_accumulation_steps
    plan = _plan(opts, splits, per_step=per_step, teams=team.count)
    model = _trainer(
        opts,
        base,
        accelerator,
        team,
        hooks=hooks,
        seed=seed,
        images=len(captioned.images),
        optimised=_optimisation(opts, per_step=per_step, steps=plan.steps),
    )
    draws = _draws(opts, captioned, splits, hooks, team=team, seed=seed, classes=classes)
    return PreparedRun(
        model=model,
        copies=ensemble.Ensemble(model, plan, draws),
        data=captioned,
        splits=splits,
        duplicated=duplicated,
        held_out=_prompts_of(opts, aside, data, base.tokenizer, seed),
        aside=aside,
        per_step=per_step,
        identity=identity,
        classes=classes,
    )


def _hooks_and_data_for(opts, data, base, seed):
    """`hooks_and_data` for a loaded model, Parts."""
    return hooks_and_data(
        opts,
        data,
        base.tokenizer,
        seed,
        window=_window(base, opts.max_sequence_length),
        corrects_bank=steps.of(base).corrects_bank,
    )


def _trainer(
    opts: TrainOptions,
    base: Parts,
    accelerator: Accelerator,
    team: Team,
    *,
    hooks: TrainHooks,
    seed: int,
    images: int,
    optimised: optimisation.Optimisation,
) -> trainer.Trainer:
    """images: number of the training images of all splits."""
    step = steps.of(base, step_settings(opts))
    task = trained_copy.Task(
        step=step,
        process=step.process(base, process_settings(opts), opts.resolution),
        method=method_of(opts, seed),
        hooks=hooks,
        seed=seed,
        resolution=opts.resolution,
        images=images,
        train_text_encoder=opts.train_text_encoder,
        noise_offset=opts.noise_offset,
        regularisations=preservation_job.regularisations_of(opts),
    )
    computation = trained_copy.Computation(
        accelerator=accelerator,
        team=team,
        dtype=devices.dtype_of(opts.mixed_precision),
        gradient_checkpointing=opts.gradient_checkpointing,
        compiled=opts.compile,
    )
    return trainer.Trainer(base, task, optimised, computation)


# Before the first step ----------------------------------------------------------------------------


def require_host_memory(job: PreparedRun, say: Callable[[str], None]) -> None:
    """Print what waiting copies need in host memory and what is free; UsageError when it is not
    enough."""
    import psutil

    here = int(os.environ.get("LOCAL_WORLD_SIZE", 1))  # processes that share this machine's memory
    need, free = here * job.copies.host_bytes(), psutil.virtual_memory().available
    if not need:
        return
    needed, available = encode_ahead.gib(need), encode_ahead.gib(free)
    say(
        f"{job.plan.turns} copies take turns; those that wait need {needed} of host memory,"
        f" {available} are free"
    )
    if need > free:
        raise UsageError(
            f"--clients_num={job.plan.splits}: waiting copies need {needed} of host memory,"
            f" {available} are free; use fewer copies, or more processes"
        )


def encode(job: PreparedRun, opts: TrainOptions, folder: Path, processes: Processes) -> list[str]:
    """Compute the outputs of the frozen networks ahead (--cache_latents auto) into `folder`.
    Returns: what is cached, see encode_ahead."""
    if opts.cache_latents == "off" or job.model.frozen.vae is None:
        return []
    return encode_ahead.encode_ahead(
        job, folder, processes, views=views_of(opts), workers=opts.num_workers
    )
