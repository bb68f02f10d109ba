"""Trainer: an optimizer step of one copy of the model. The caller handles files, previews and
trackers.

It asks objects and knows no model, process or method by name: a Step (what goes into the network of
a family), a Process (noise and target), a Method (which weights learn), hooks (mitigations) and
Regularisations (extra losses)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch

from utils.runtime import devices
from utils.runtime.pass_memory import PassMemory
from utils.training import augmentation, optimizers, step_random
from utils.training import latents as lat
from utils.training.denoiser import DenoiserInputs
from utils.training.extra_losses import ExtraLosses
from utils.training.regularisation import Noised
from utils.training.step_reports import StepReport
from utils.training.trained_copy import TrainedCopy

if TYPE_CHECKING:
    from utils.models.parts import Parts
    from utils.training.optimisation import Optimisation
    from utils.training.trained_copy import Computation, Task


class Trainer(TrainedCopy):
    """A copy of the model that takes optimizer steps."""

    def __init__(
        self,
        parts: Parts,
        task: Task,
        optimisation: Optimisation,
        computation: Computation,
    ):
        super().__init__(parts, task, optimisation, computation)
        self.resolution, self.noise_offset = task.resolution, task.noise_offset
        # of the first micro-batch of this launch: inputs, forward and backward pass
        self.pass_memory = PassMemory()
        self.extra_losses = ExtraLosses(self, task.regularisations)
        # (T, D): tokens of a prompt, width of an embedding; (0, 0) of a model that reads no text
        tokens, width = self.family.text_shapes(parts).get("tokens", (0, 0))
        self.embedding_shape = (tokens, width)

    # Inputs of a step -----------------------------------------------------------------------------

    def latent_shape(self, batch: Mapping[str, Any]) -> tuple[int, int, int]:
        """(C, h, w) of the latents of a batch, all of whose images are shown in one size."""
        height, width = batch["target_size"][0]
        factor = self.parts.vae_factor
        return self.parts.latent_channels, height // factor, width // factor

    def _moved(self, value):
        return devices.to_device(value, self.device) if isinstance(value, torch.Tensor) else value

    @torch.no_grad()
    def noised(
        self,
        batch: Mapping[str, Any],
        random: step_random.StepRandom,
        *,
        beside: str | None = None,
    ) -> Noised:
        """Images of a batch with the noise that `random` draws first. beside: as in
        FrozenNetworks.latents."""
        shape = self.latent_shape(batch)
        noises = step_random.latent_noise(
            random,
            latent_shape=shape,
            draw_time=self.process.drawn_at(*shape[1:]),
            offset=self.noise_offset,
        )
        time, posterior, noise = map(self._moved, noises)
        latents = self.frozen.latents(batch, posterior, beside=beside)
        extras = self.family.extras(batch, self.resolution)
        return Noised(
            self.process.noisy(latents, noise, time),
            time,
            self.process.target(latents, noise, time),
            {name: self._moved(value) for name, value in extras.items()},
        )

    def _augmented(self, batch, random):
        """A batch whose images are shown as the augmentation shows them."""
        if self.augmentation is None:
            return batch
        rows = devices.to_device(torch.tensor(batch["row"]), self.device)
        drawn = augmentation.draw(random.of_samples("augmentation"))
        pixels, chosen = self.augmentation.shown(self._moved(batch["pixels"]), rows, drawn)
        self.augmentation.count(self.team.gather(rows), self.team.gather(chosen.int()))
        return batch | {"pixels": pixels}

    @torch.no_grad()
    def inputs(
        self, batch: Mapping[str, Any], step: int
    ) -> tuple[DenoiserInputs, torch.Tensor, torch.Tensor]:
        """The inputs of micro-batch `step` of this copy. batch: as training_data.loader gives it.
        Returns: (arguments of the Denoiser, target [B, C, h, w], times [B] of the process)."""
        random = step_random.StepRandom(self.seed, self.split, step, batch["slot"])
        images = self.noised(self._augmented(batch, random), random)
        drawn = tuple(map(self._moved, self.hooks.draw(random, self.embedding_shape)))
        own, partners = self.frozen.text(batch["prompt"]), None
        if self.hooks.partners:
            partners = self.frozen.text(batch["partner_prompt"])
        time = self.process.network_time(images.time)
        arguments = DenoiserInputs(images.noisy, time, own, partners, drawn, images.extras)
        return arguments, images.wanted, images.time

    @torch.no_grad()
    def losses_at(
        self,
        batch: Mapping[str, Any],
        posterior: torch.Tensor,
        noise: torch.Tensor,
        time: torch.Tensor,
    ) -> torch.Tensor:
        """The plain losses of samples at noise and times that are given, without mitigations and
        weights of the loss. Within `pipeline`, they are those of a checkpoint.

        batch: of B samples, with pixels and prompts, as training_data.collate joins them;
        posterior, noise: [B, C, h, w] standard normal; time: [B] of the process. Returns: [B]
        float32 on the CPU."""
        posterior, noise, time = map(self._moved, (posterior, noise, time))
        latents = self.frozen.encoded(batch["pixels"], posterior)
        encoders = self.parts.encoders | self.frozen.encoders
        text = self.family.text(encoders, self.frozen.ids(batch["prompt"]))
        extras = {k: self._moved(v) for k, v in self.family.extras(batch, self.resolution).items()}
        given = self.process.network_time(time)
        with self.computation.accelerator.autocast():
            noisy = self.process.noisy(latents, noise, time)
            predicted = self.family.predict(self.parts.denoiser, noisy, given, text, extras)
        return lat.squared_error(predicted, self.process.target(latents, noise, time)).cpu()

    # A step ---------------------------------------------------------------------------------------

    def _loss(self, losses, time, rows):
        """The loss of a micro-batch from the losses of its samples [B], and the share of samples
        that the loss rule dropped (None without a rule).

        With a rule: the sum of the kept losses over the number kept in the *global* batch.
        Gradients are averaged over the team's processes, hence the factor. Weights of times come
        after the rule, which sees plain losses."""
        weights = self.process.weights(time)
        weighted = losses if weights is None else losses * weights
        if self.loss_rule is None:
            return weighted.mean(), None
        every, at = self.team.gather(losses.detach()), self.team.gather(self.process.bin(time))
        seen = self.team.gather(devices.to_device(torch.tensor(rows), self.device))
        if self.augmentation is not None:
            self.augmentation.update(seen, self.loss_rule.nearness(every, at))
        kept = self.loss_rule.keep(every, at)
        self.loss_rule.update(every, at)
        self.counts.index_add_(0, seen, torch.stack([torch.ones_like(kept), ~kept], 1).int())
        own = kept[self.team.rank * len(losses) : (self.team.rank + 1) * len(losses)]
        loss = (weighted * own).sum() * self.team.size / kept.sum().clamp_min(1)
        return loss, 1 - kept.float().mean()

    def own_numbers(self, batch: Mapping[str, Any], number: int, seed: int) -> Any:
        """Give torch's own generators numbers of the micro-batch alone, where the method draws
        from them, so that a resumed run draws the same. seed: of them."""
        if not self.method.draws_globally:
            return contextlib.nullcontext()
        index = (self.split, number, batch["slot"][0])
        return step_random.seeded(self.device, seed, "adapter-dropout", *index)

    def averages(self, *, last: bool) -> contextlib.AbstractContextManager:
        """A block of a forward and a backward pass, in which the team's processes average their
        gradients if it is the last of an optimizer step."""
        return contextlib.nullcontext() if last or self.team.size == 1 else self.denoiser.no_sync()

    def _micro_step(self, batch, number, *, last):
        """Gradients of micro-batch `number`. last: of its optimizer step, when the team's processes
        average them. Returns: as _loss, and the sum of the extra losses (None without any)."""
        arguments, wanted, time = self.inputs(batch, number)
        own = Noised(arguments.noisy, time, wanted, arguments.extras)
        extra = self.extra_losses.backward(batch, number, own)
        own_numbers = self.own_numbers(batch, number, self.seed)
        with self.averages(last=last):
            with self.computation.accelerator.autocast(), own_numbers:
                pred = self.denoiser(*arguments)
            loss, skipped = self._loss(lat.squared_error(pred, wanted), time, batch["row"])
            self.scaler.scale(loss / self.optimisation.accumulation).backward()
        return loss.detach(), skipped, extra

    def _measured(self):
        """A block whose memory is measured, if it is the first. Not of compiled networks on a CPU,
        which would run uncompiled in it."""
        able = self.device.type == "cuda" or not self.computation.compiled
        if able and self.pass_memory.bytes is None:
            return self.pass_memory.measured(self.device)
        return contextlib.nullcontext()

    def step(self, batches: Iterator[Mapping[str, Any]], number: int) -> StepReport:
        """Take optimizer step `number` (of this copy, from 0) on the next micro-batches. Nothing
        here waits for the device."""
        accumulation = self.optimisation.accumulation
        losses, skips, extras = [], [], []
        for micro in range(accumulation):
            batch, last = next(batches), micro == accumulation - 1
            with self._measured():
                loss, skipped, extra = self._micro_step(
                    batch, number * accumulation + micro, last=last
                )
            losses.append(loss)
            if skipped is not None:
                skips.append(skipped)
            if extra is not None:
                extras.append(extra)
        rate, loss = self.rate(number), torch.stack(losses).mean()
        extra = torch.stack(extras).mean() if extras else None
        applied = optimizers.applied_rate(self.optimizer, rate)
        self._update_weights(loss if extra is None else loss + extra, rate)
        if self.ema:
            self.ema.update(number)
        return StepReport(
            step=number + 1,
            loss=loss,
            lr=applied,
            finite=self.finite,
            skipped=torch.stack(skips).mean() if skips else None,
            extra=extra,
        )

    def _update_weights(self, loss, rate):
        """Clip the gradients and let the optimizer step at a learning rate."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group.get("rate_factor", 1.0)
        self.scaler.unscale_(self.optimizer)
        norm = torch.nn.utils.clip_grad_norm_(
            self.weights.values(), self.optimisation.adam.max_grad_norm
        )
        self.finite = self.finite & loss.isfinite()
        # a scaler skips the step of an infinite gradient, which is no failure
        if not self.scaler.is_enabled():
            self.finite = self.finite & norm.isfinite()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()
