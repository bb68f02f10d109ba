"""Guidance before a transition point (Jain et al., CVPR 2025, arXiv 2411.16738): another scale
while the trajectory is in the attraction basin of a training image, the wanted one afterwards.
Hooks of `steering`: Prediction -> Prediction."""

import dataclasses

import torch


def guided(prediction, scale):
    """u + scale (c - u), put into both branches: whatever guidance the pipeline then applies leaves
    it as it is.

    scale: [B], or a number. Returns: Prediction.
    """
    scale = torch.as_tensor(
        scale, dtype=prediction.conditional.dtype, device=prediction.conditional.device
    )
    scale = scale.reshape(-1, *[1] * (prediction.conditional.dim() - 1))
    mixed = prediction.unconditional + scale * (prediction.conditional - prediction.unconditional)
    return dataclasses.replace(prediction, conditional=mixed, unconditional=mixed)


class StaticTransition:
    """Scale `before` while the timestep is above `start`, in 0 ... T; from there on the pipeline's
    own.

    Published for LAION-10k: start 500 and before 0, which is the unconditional prediction; opposite
    guidance: 650 and -2."""

    def __init__(self, *, start, before):
        self.start, self.before = start, before

    def __call__(self, prediction):
        return guided(prediction, self.before) if prediction.timestep > self.start else prediction


class DynamicTransition:
    """Scale `before` until the distance of the two branches' noise, ||e_c - e_u||_2 over an image,
    has passed its first local minimum over steps; each image has its own transition.

    A minimum shows itself at the step after it, where the distance rises again after it fell:
    guidance starts there. The alternative, going back a step, would cost each image another
    evaluation of the network. An image whose distance has no minimum keeps `before` to the end. A
    timestep that comes twice (PNDM's second) counts once. For flow matching the distance is that of
    the flow: its noise is the latents themselves at the start, whatever the prompt, so that there
    it would always rise. One object a batch."""

    def __init__(self, *, scale, before):
        self.scale, self.before = scale, before
        self.time = self.last = self.fell = self.passed = self.at = None

    def __call__(self, prediction):
        difference = (prediction.conditional - prediction.unconditional).float().flatten(1)
        # one distance an image: [B]
        distance = difference.norm(dim=1) * (
            1.0 if prediction.flow else abs(prediction.noise_factor)
        )
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

    def report(self):
        """The timestep at which each image's guidance began, or None. Returns: [{"guided_from":
        float or None}] * B."""
        return [{"guided_from": None if t != t else t} for t in self.at.tolist()]
