"""A copy in training, over the twelve scenes, with the random pipeline."""

import dataclasses
import importlib.util

import pytest
import torch

from utils.data import caption_files, duplication, image_sets, training_data, transforms
from utils.runtime import launching, parallel
from utils.training import (
    ensemble,
    optimisation,
    preservation_job,
    train_mitigations,
    trained_copy,
    trainer,
)
from utils.training import steps as steps_of_families
from utils.training.methods.full_weights import FullWeights
from utils.training.process.base import ProcessSettings
from utils.training.resharding import Resharding
from utils.training.steps.base import StepSettings

SIDE = 16
needs_prodigy = pytest.mark.skipif(
    importlib.util.find_spec("prodigyopt") is None, reason="prodigyopt is not installed"
)
# values of the flags of train-time mitigations that turn each off
MITIGATIONS_OFF = {
    "trainspecial": None,
    "trainspecial_prob": 0.1,
    "mixup_noise_lam": 0.0,
    "rand_noise_lam": 0.0,
    "mem_ratio": None,
    "arr_ema_decay": 0.8,
    "agc_bias_correction": False,
    "agc_augment": None,
}


@pytest.fixture
def start(scenes_dir, micro_parts):
    """start(**changes) -> Ensemble (its .model is the Trainer) over the scenes, nothing trained
    yet."""

    def made(
        *,
        parts=None,
        noise=0.0,
        noise_offset=0.0,
        mixup=0.0,
        steps=3,
        rounds=1,
        splits=1,
        schedule="constant",
        warmup=0,
        lr=1e-3,
        accumulation=1,
        batch=2,
        ratio=None,
        bias_correction=False,
        text=False,
        weights=None,
        optimizer="adamw",
        length=None,
        guidance=1.0,
        center_crop=True,
        process=None,
        method=None,
        encoder_factor=1.0,
        regularisations=(),
        reshard=None,
        augment=None,
        **optimised,
    ):
        parts = parts or micro_parts()
        step = steps_of_families.of(parts, StepSettings(length, guidance))
        images = image_sets.list_images("--d", scenes_dir / "train")
        texts, _ = caption_files.read_captions(scenes_dir / "captions.json", images)
        data, _ = training_data.captioned_images(
            images, texts, style="nodup", share=0, weight=1, seed=0, weights=weights
        )
        values = MITIGATIONS_OFF | {
            "rand_noise_lam": noise,
            "mixup_noise_lam": mixup,
            "mem_ratio": ratio,
            "agc_bias_correction": bias_correction,
            "agc_augment": augment,
        }
        hooks = train_mitigations.train_hooks(
            train_mitigations.chosen(values),
            choice=duplication.DUPLICATIONS["nodup"],
            tokenizer=parts.tokenizer,
        )
        parts_of = training_data.split_images(len(images), splits, 0)
        plan = ensemble.EnsemblePlan(tuple(map(len, parts_of)), rounds, steps)
        model = trainer.Trainer(
            parts,
            trained_copy.Task(
                step=step,
                process=step.process(parts, process or ProcessSettings(), SIDE),
                method=method or FullWeights(),
                hooks=hooks,
                seed=0,
                resolution=SIDE,
                images=len(images),
                train_text_encoder=text,
                noise_offset=noise_offset,
                regularisations=regularisations,
            ),
            optimisation.Optimisation(
                optimisation.Adam(learning_rate=lr, name=optimizer, encoder_factor=encoder_factor),
                optimisation.Schedule(schedule, warmup, steps * rounds),
                accumulation=accumulation,
                **optimised,
            ),
            trained_copy.Computation(
                accelerator=launching.accelerator(mixed_precision="no"),
                team=parallel.Team(),
                dtype=torch.float32,
            ),
        )
        views = transforms.Views(SIDE, center_crop=center_crop, random_flip=False)
        # the training images stand for class images too
        classes = {
            each.beside: preservation_job.ClassData(
                dataclasses.replace(data, prompts={k: each.prompts([]) for k in images.keys}), {}
            )
            for each in regularisations
            if each.beside is not None
        }
        draws = {
            k: training_data.Draws(
                data.take(part),
                seed=0,
                split=k,
                global_batch=batch,
                views=views,
                choose_caption=hooks.choose_caption,
                partners=hooks.partners,
                beside={
                    name: each.draws(seed=0, split=k, global_batch=batch, views=views)
                    for name, each in classes.items()
                },
            )
            for k, part in enumerate(parts_of)
        }
        moving = None if reshard is None else Resharding(data, parts_of, share=reshard)
        return ensemble.Ensemble(model, plan, draws, moving)

    return made


@pytest.fixture
def finished():
    """finished(copies, batch=, position=, until=) -> (Progress of every position, the weights as
    one vector)."""

    def run(copies, *, batch=2, position=0, until=None):
        found = []
        for at in copies.run(position, batch_size=batch):
            found.append(at)
            if at.position == until:
                break
        return found, flat(copies.model)

    return run


def flat(model):
    """The weights in training as one vector, a copy."""
    return torch.cat([p.detach().flatten().clone() for p in model.weights.values()])
