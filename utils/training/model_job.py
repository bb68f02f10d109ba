"""From the options to the model of a run: the base model, which weights learn, and how."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import TYPE_CHECKING

from utils.generation.sampling import window_of
from utils.models import adapters, fingerprints, parts
from utils.runtime import devices
from utils.training import (
    optimisation,
    preservation_job,
    starting_model,
    steps,
    trained_copy,
    trainer,
)
from utils.training.methods import lora
from utils.training.methods.full_weights import FullWeights
from utils.training.methods.lora import Adapting, Lora
from utils.training.process.base import ProcessSettings
from utils.training.steps.base import StepSettings

if TYPE_CHECKING:
    from accelerate import Accelerator

    from utils.cli.train_options import TrainOptions
    from utils.data.encoder_window import Window
    from utils.data.image_sets import ImageSet
    from utils.models.parts import Parts
    from utils.runtime.parallel import Team
    from utils.training.methods.base import Method
    from utils.training.train_mitigations import TrainHooks


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
    adapting = Adapting(
        shape,
        seed,
        layers=lora.layers_of(opts.lora_layers),
        kohya=opts.output_kohya_format,
        base_format=None if opts.quantize_base == "none" else opts.quantize_base,
    )
    files = {
        name: value
        for name, value in vars(starting_model.choice_of(opts)).items()
        if value is not None
    }
    return Lora(adapting, opts.pretrained_model_name_or_path, files)


def optimisation_of(opts: TrainOptions, *, per_step: int, steps: int) -> optimisation.Optimisation:
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


def load_parts(
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


def window_for(base: Parts, length: int | None) -> Window | None:
    """What the model reads of a caption; None of a model that reads no text."""
    return None if base.tokenizer is None else window_of(base.pipeline, length)


def trainer_of(
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
