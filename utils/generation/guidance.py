"""Guidance with a transition point (Jain et al., CVPR 2025, arXiv 2411.16738): another scale while
the trajectory is in the attraction basin of a training image, the usual scale afterwards.

The classes are hooks of `denoiser_hook`: Prediction -> Prediction."""

from __future__ import annotations

import dataclasses

import torch

from utils.generation.denoiser_hook import Prediction


def guided(prediction: Prediction, scale: float | torch.Tensor) -> Prediction:
    """u + scale (c - u) in both branches, so that the pipeline's own guidance does not change it.

    scale: a number, or one per image: [B].
    """
    scale = torch.as_tensor(
        scale, dtype=prediction.conditional.dtype, device=prediction.conditional.device
    )
    scale = scale.reshape(-1, *[1] * (prediction.conditional.dim() - 1))
    mixed = prediction.unconditional + scale * (prediction.conditional - prediction.unconditional)
    return dataclasses.replace(prediction, conditional=mixed, unconditional=mixed)


class StaticTransition:
    """Scale `before` while the timestep is above `start`; from then on the pipeline's own scale.

    Published for LAION-10k: start 500 and before 0, which is the unconditional prediction; opposite
    guidance: 650 and -2.

    start: timestep, from 0 (clean) to the scheduler's number of training timesteps.
    before: guidance scale.
    """

    def __init__(self, *, start: float, before: float) -> None:
        self.start, self.before = start, before

    def __call__(self, prediction: Prediction) -> Prediction:
        return guided(prediction, self.before) if prediction.timestep > self.start else prediction


class DynamicTransition:
    """Scale `before` until the distance between the noise of the two branches, ||e_c - e_u||_2 over
    an image, has passed its first local minimum over steps. Each image has its own transition.

    A minimum is seen one step late, when the distance rises after it fell, and guidance starts at
    that step: going back a step would cost each image another evaluation of the network. An image
    whose distance has no minimum keeps `before` to the end. A timestep that comes twice (PNDM's
    second) counts once. For flow matching it is the distance of the flow: at its first step the
    noise is the latents themselves for any prompt, so the distance of the noise would always rise.

    The state is that of one batch: use a new object for each.

    scale: guidance scale after the transition.
    before: guidance scale before it.
    """

    def __init__(self, *, scale: float, before: float) -> None:
        self.scale, self.before = scale, before
        self.time: float | None = None  # timestep of the last evaluation
        # of each image, [B]:
        self.last: torch.Tensor | None = None  # distance at that timestep
        self.fell: torch.Tensor  # whether the distance has fallen
        self.passed: torch.Tensor  # whether the transition is over
        self.at: torch.Tensor  # timestep of the transition, NaN before it

    def __call__(self, prediction: Prediction) -> Prediction:
        difference = (prediction.conditional - prediction.unconditional).float().flatten(1)
        distance = difference.norm(dim=1) * prediction.distance_factor
        if self.last is None:
            self.fell = self.passed = torch.zeros_like(distance, dtype=torch.bool)
            self.at = torch.full_like(distance, torch.nan)
        elif prediction.timestep != self.time:
            rises = ~self.passed & self.fell & (distance > self.last)
            self.at = torch.where(rises, prediction.timestep, self.at)
            self.fell = self.fell | (distance < self.last)
            self.passed = self.passed | rises
        if prediction.timestep != self.time:
            self.time, self.last = prediction.timestep, distance
        return guided(prediction, torch.where(self.passed, self.scale, self.before))

    def report(self) -> list[dict]:
        """The timestep at which each image's guidance began, or None if it never did: a dict
        {"guided_from": float or None} per image."""
        return [{"guided_from": None if t != t else t} for t in self.at.tolist()]


def count_unguided(rows: list[dict]) -> str | None:
    """A line that counts the images of a generation whose transition never came; None if there are
    none.

    rows: manifest rows, with the report of DynamicTransition.
    """
    unguided = sum("guided_from" in row and row["guided_from"] is None for row in rows)
    if not unguided:
        return None
    return (
        f"{unguided} of {len(rows)} images kept --cfg_before to the end: --cfg_start auto found no"
        " minimum"
    )
