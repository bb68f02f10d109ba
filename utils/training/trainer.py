"""Trainer: an optimizer step of one copy of the model, and the state that belongs to a copy. The
caller handles files, previews and trackers.

It asks objects and knows no model, process or method by name: a Step (what goes into the network of
a family), a Process (noise and target), a Method (which weights learn), hooks (mitigations) and
Regularisations (extra losses)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from utils.models import ddpm
from utils.runtime import devices
from utils.runtime.errors import TrainingError
from utils.training import ema, optimizers, step_random
from utils.training import latents as lat
from utils.training.extra_losses import ExtraLosses
from utils.training.frozen_networks import FrozenNetworks
from utils.training.optimisation import Optimisation, rate_at
from utils.training.regularisation import Noised
from utils.training.step_reports import StepReport

if TYPE_CHECKING:
    from accelerate import Accelerator

    from utils.models.parts import Parts
    from utils.runtime.parallel import Team
    from utils.training.loss_control import LossRule
    from utils.training.methods.base import Method
    from utils.training.process.base import Process
    from utils.training.regularisation import Regularisation
    from utils.training.steps.base import Step, Text
    from utils.training.train_mitigations import TrainHooks

WITHOUT_EMA = "unet_without_ema"  # folder of a network beside those of its pipeline
ADVICE = "A lower --learning_rate, or --mixed_precision bf16 instead of fp16, usually helps"


@dataclass(frozen=True)
class Task:
    """What a copy learns: all that follows from the run's options and data."""

    step: Step  # of the family
    process: Process  # noise and target
    method: Method  # which weights learn
    hooks: TrainHooks  # the mitigations
    seed: int  # of every random number of the run
    resolution: int  # side of training images in pixels
    images: int = 0  # images of the run, of all splits
    train_text_encoder: bool = False
    noise_offset: float = 0.0  # of step_random.latent_noise
    regularisations: tuple[Regularisation, ...] = ()  # extra losses


@dataclass(frozen=True)
class Computation:
    """How and where steps are computed. It changes speed, memory and rounding, not the method."""

    accelerator: Accelerator
    team: Team  # the processes that train this copy
    dtype: torch.dtype  # of the frozen networks
    gradient_checkpointing: bool = False
    compiled: bool = False


class DenoiserInputs(NamedTuple):
    """Arguments of `Denoiser` for a micro-batch of B samples, on the device."""

    noisy: torch.Tensor  # [B, C, h, w] noisy latents
    time: torch.Tensor  # [B] as the network takes it
    # what the network reads of the prompts, or their token ids where text encoders learn
    own: Text
    partners: Text | None  # the same of the partners' prompts, where an edit needs them
    drawn: tuple | None  # the random value of each embedding edit; None: no edit is applied
    extras: dict[str, torch.Tensor]  # further inputs of the family, {name: [B, ...]}


class Denoiser(torch.nn.Module):
    """The networks that a step runs forward and backward: the denoiser and, when they learn, the
    text encoders."""

    def __init__(
        self,
        network: torch.nn.Module,
        encoders: Mapping[str, torch.nn.Module] | None,
        step: Step,
        hooks: TrainHooks,
    ):
        """encoders: all text encoders, where any of them learns; else None."""
        super().__init__()
        self.network, self.family, self.hooks = network, step, hooks
        self.encoders = None if encoders is None else torch.nn.ModuleDict(encoders)

    def forward(
        self,
        noisy: torch.Tensor,
        time: torch.Tensor,
        own: Text,
        partners: Text | None,
        drawn: tuple | None,
        extras: dict[str, torch.Tensor],
    ) -> torch.Tensor:
        """The prediction for a micro-batch; arguments as in DenoiserInputs. Returns: like noisy."""
        if self.encoders is not None:
            own = self.family.text(self.encoders, own)
            partners = None if partners is None else self.family.text(self.encoders, partners)
        text = own if drawn is None else self.hooks.edit_text(own, partners, drawn)
        return self.family.predict(self.network, noisy, time, text, extras)


class Trainer:
    """Trainer of one copy of the model. Its state is the weights, the optimizer's moments and
    the loss rule's state; everything else is derived from the seed and the step."""

    def __init__(
        self,
        parts: Parts,
        task: Task,
        optimisation: Optimisation,
        computation: Computation,
    ):
        self.parts, self.hooks, self.seed = parts, task.hooks, task.seed
        self.family, self.process, self.method = task.step, task.process, task.method
        self.optimisation, self.computation = optimisation, computation
        self.team, self.dtype = computation.team, computation.dtype
        self.device = computation.accelerator.device
        self.resolution, self.noise_offset = task.resolution, task.noise_offset
        self.split = 0  # the split that the copy trains on
        self._set_up_networks(task)
        self._set_up_optimizer()
        self._set_up_loss_rule(task)
        # (T, D): tokens of a prompt, width of an embedding; (0, 0) of a model that reads no text
        tokens, width = self.family.text_shapes(parts).get("tokens", (0, 0))
        self.embedding_shape = (tokens, width)

    def _set_up_networks(self, task: Task) -> None:
        parts, learns_text = self.parts, task.train_text_encoder
        learning = self.family.trainable_encoders if learns_text else ()
        self.frozen = FrozenNetworks(
            parts, self.family, learning=learning, device=self.device, dtype=self.dtype
        )
        self.modules = {parts.denoiser_name: parts.denoiser}
        self.modules |= {n: each for n, each in parts.encoders.items() if n in learning}
        self.method.prepare(self.modules, parts, self.family)
        for module in self.modules.values():
            module.train().to(self.device)
        if self.computation.gradient_checkpointing:
            parts.denoiser.enable_gradient_checkpointing()
            for name in self.modules.keys() & parts.encoders.keys():
                parts.encoders[name].gradient_checkpointing_enable()
        encoders = parts.encoders | self.frozen.encoders if learns_text else None
        denoiser = Denoiser(parts.denoiser, encoders, self.family, self.hooks)
        if self.computation.compiled:
            denoiser.compile()
        unused = learns_text and self.family.unused_weights
        self.denoiser = self.team.wrap(denoiser, self.device, unused_weights=unused)
        self.extra_losses = ExtraLosses(self, task.regularisations)

    def _set_up_optimizer(self) -> None:
        self.weights = self.method.weights(self.modules)
        self.rate = rate_at(self.optimisation)
        self.optimizer_name = self.optimisation.adam.name
        make = optimizers.OPTIMIZERS[self.optimizer_name].make
        self.optimizer = make(self._groups(), self.optimisation.adam)
        half = self.computation.accelerator.mixed_precision == "fp16"
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=half)
        self.first_scale = self.scaler.get_scale()  # loading a state makes it forget this
        self.ema = ema.WeightAverage(self.weights) if self.optimisation.use_ema else None
        self.finite = torch.ones((), dtype=torch.bool, device=self.device)

    def _groups(self):
        """The weights as the optimizer takes them; text encoders in a group of their own where they
        have another learning rate."""
        factor = self.optimisation.adam.encoder_factor
        if factor == 1.0:
            return list(self.weights.values())
        own = f"{self.parts.denoiser_name}."
        denoiser = [p for name, p in self.weights.items() if name.startswith(own)]
        encoders = [p for name, p in self.weights.items() if not name.startswith(own)]
        return [{"params": denoiser}, {"params": encoders, "rate_factor": factor}]

    def _set_up_loss_rule(self, task: Task) -> None:
        self.loss_rule: LossRule | None = None
        # [N, 2]: how often the loss rule saw and dropped each image of the run
        self.counts: torch.Tensor | None = None
        if task.hooks.loss_rule is not None:
            self.loss_rule = task.hooks.loss_rule(
                num_timesteps=self.process.bins, device=self.device
            )
            self.counts = torch.zeros(task.images, 2, dtype=torch.int32, device=self.device)

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
        noises = step_random.latent_noise(
            random,
            latent_shape=self.latent_shape(batch),
            draw_time=self.process.draw,
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

    @torch.no_grad()
    def inputs(
        self, batch: Mapping[str, Any], step: int
    ) -> tuple[DenoiserInputs, torch.Tensor, torch.Tensor]:
        """The inputs of micro-batch `step` of this copy. batch: as training_data.loader gives it.
        Returns: (arguments of the Denoiser, target [B, C, h, w], times [B] of the process)."""
        random = step_random.StepRandom(self.seed, self.split, step, batch["slot"])
        images = self.noised(batch, random)
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
        kept = self.loss_rule.keep(every, at)
        self.loss_rule.update(every, at)
        seen = self.team.gather(devices.to_device(torch.tensor(rows), self.device))
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

    def step(self, batches: Iterator[Mapping[str, Any]], number: int) -> StepReport:
        """Take optimizer step `number` (of this copy, from 0) on the next micro-batches. Nothing
        here waits for the device."""
        accumulation = self.optimisation.accumulation
        losses, skips, extras = [], [], []
        for micro in range(accumulation):
            loss, skipped, extra = self._micro_step(
                next(batches), number * accumulation + micro, last=micro == accumulation - 1
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

    # The state of a copy --------------------------------------------------------------------------

    def averaged(self) -> dict[str, torch.Tensor]:
        """{name: tensor} that an ensemble averages at the end of a round: weights and, with EMA,
        their averages."""
        averages = {} if self.ema is None else {f"ema/{n}": t for n, t in self.ema.averages.items()}
        return {f"weights/{n}": p.detach() for n, p in self.weights.items()} | averages

    def copy_state(self) -> dict[str, torch.Tensor]:
        """{name: tensor in host memory} that belongs to this copy and is never averaged: state of
        the optimizer and of the loss rule, loss scale."""
        state = optimizers.state_of(self.optimizer, self.optimizer_name, self.weights)
        if self.loss_rule is not None:
            tensors = self.loss_rule.state()
            state |= {f"control/{k}": devices.to_host(v) for k, v in tensors.items()}
        if self.scaler.is_enabled():
            scaler = self.scaler.state_dict()
            state["scaler"] = torch.tensor(
                [scaler["scale"], scaler["_growth_tracker"]], dtype=torch.float64
            )
        return state

    def load_copy(self, split: int, state: Mapping[str, torch.Tensor]) -> None:
        """Load the copy of a split. state: as `copy_state` gives it; empty for a copy that has not
        trained yet."""
        self.split = split
        optimizers.load_state(self.optimizer, self.optimizer_name, self.weights, state)
        if self.loss_rule is not None:
            self.loss_rule.reset()
            for key, tensor in self.loss_rule.state().items():
                if f"control/{key}" in state:
                    tensor.copy_(state[f"control/{key}"])
        if self.scaler.is_enabled():
            scale, growth = state["scaler"].tolist() if "scaler" in state else (self.first_scale, 0)
            scaler = self.scaler.state_dict() | {"scale": scale, "_growth_tracker": int(growth)}
            self.scaler.load_state_dict(scaler)

    def require_finite(self, step: int) -> None:
        """Raise TrainingError when the weights are not finite. Call it before they are saved and
        only then: this waits for the device."""
        if not torch.stack([p.detach().isfinite().all() for p in self.weights.values()]).all():
            raise TrainingError(
                f"the weights are not finite after step {step}; what was saved before is kept."
                f" {ADVICE}"
            )

    def save(self, pipeline: Any, folder: Path) -> None:
        """Write a checkpoint. pipeline: of `pipeline`.

        A DDPM's holds its classes and, under EMA, the weights that were trained as well, in
        WITHOUT_EMA: memorization is published of both."""
        self.method.save(pipeline, folder)
        if self.parts.classes is not None:
            ddpm.write_classes(folder, self.parts.classes)
        if self.ema and self.parts.vae is None:
            self.ema.swap()
            self.parts.denoiser.save_pretrained(folder / WITHOUT_EMA)
            self.ema.swap()

    @contextlib.contextmanager
    def pipeline(self) -> Iterator[Any]:
        """The model as a pipeline for previews and checkpoints, with the averaged weights under
        EMA. Weights are shared, not copied; modules are in eval mode inside."""
        if self.ema:
            self.ema.swap()
        for module in self.modules.values():
            module.eval()
        try:
            yield self.parts.assemble()
        finally:
            for module in self.modules.values():
                module.train()
            if self.ema:
                self.ema.swap()
