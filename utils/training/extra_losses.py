"""How a copy computes extra losses (utils/training/regularisation.py): their samples, predictions
and gradients, beside those of the training images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from utils.runtime import devices, seeding
from utils.training import latents as lat
from utils.training import step_random
from utils.training.base_model import BaseModel

if TYPE_CHECKING:
    from utils.training.regularisation import Noised, Regularisation, Samples
    from utils.training.trainer import Trainer


class ExtraLosses:
    """The extra losses of a copy. Build it before the first step and before a state is loaded.

    Each has a forward and a backward pass of its own before those of the training images, so that
    memory holds the activations of one at a time. No edit of a mitigation applies to them, and no
    loss rule sees them."""

    def __init__(self, model: Trainer, regularisations: tuple[Regularisation, ...]):
        self.model, self.regularisations = model, regularisations
        self.base: BaseModel | None = None  # where a loss needs the model before training
        if any(each.needs_base for each in regularisations):
            self.base = BaseModel(
                model.parts, model.modules, model.method, model.family, frozen=model.frozen
            )

    def backward(self, batch: Mapping[str, Any], number: int, own: Noised) -> torch.Tensor | None:
        """Add the gradients of micro-batch `number`. own: its training images with their noise.
        Returns: the sum of the weighted losses, []; None without any."""
        losses = [
            self._backward(place, batch, number, own) for place in range(len(self.regularisations))
        ]
        return torch.stack(losses).sum() if losses else None

    def _backward(self, place, batch, number, own):
        model, regularisation = self.model, self.regularisations[place]
        samples = regularisation.samples(batch, own, self._noise_of(regularisation, number))
        wanted, text = samples.noised.wanted, self._text(samples)
        if samples.of_base:
            wanted = self._of_base(samples.noised, text)
        with model.averages(last=False):
            pred = self._predicted(samples.noised, text, self._own_numbers(place, batch, number))
            losses = lat.squared_error(pred, wanted)
            weights = model.process.weights(samples.noised.time)
            losses = losses if weights is None else losses * weights
            loss = regularisation.weight * self._mean(losses, samples.counted)
            model.scaler.scale(loss / model.optimisation.accumulation).backward()
        return loss.detach()

    def _noise_of(self, regularisation, number):
        """What gives images beside the training images their noise; see regularisation.NoiseOf."""

        def noise_of(images, stream):
            seed = seeding.derive_seed(self.model.seed, stream)
            random = step_random.StepRandom(seed, self.model.split, number, images["slot"])
            return self.model.noised(images, random, beside=regularisation.beside)

        return noise_of

    @torch.no_grad()
    def _text(self, samples: Samples):
        return self.model.frozen.text(samples.prompts)

    def _own_numbers(self, place, batch, number):
        """Trainer.own_numbers of the extra loss at `place`."""
        seed = seeding.derive_seed(self.model.seed, "extra-losses", place)
        return self.model.own_numbers(batch, number, seed)

    def _predicted(self, noised, text, own_numbers):
        model = self.model
        time = model.process.network_time(noised.time)
        with model.computation.accelerator.autocast(), own_numbers:
            return model.denoiser(noised.noisy, time, text, None, None, noised.extras)

    def _of_base(self, noised, text):
        assert self.base is not None  # the regularisation says that it needs it
        time = self.model.process.network_time(noised.time)
        with self.model.computation.accelerator.autocast():
            return self.base.predict(noised.noisy, time, text, noised.extras)

    def _mean(self, losses, counted):
        """The mean of losses [B] over the samples that count in the *global* batch, of which
        gradients are the sum over the processes; see Trainer._loss."""
        if counted is None:
            return losses.mean()
        own = devices.to_device(torch.tensor(counted), self.model.device)
        every = self.model.team.gather(own)
        return (losses * own).sum() * self.model.team.size / every.sum().clamp_min(1)
