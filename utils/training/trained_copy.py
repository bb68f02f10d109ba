"""TrainedCopy: one copy of the model with its optimizer, and the state that belongs to it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from utils.models import ddpm
from utils.runtime import devices, parallel
from utils.runtime.errors import TrainingError
from utils.training import ema, optimizers
from utils.training.denoiser import Denoiser
from utils.training.frozen_networks import FrozenNetworks
from utils.training.optimisation import Optimisation, rate_at

if TYPE_CHECKING:
    from accelerate import Accelerator

    from utils.models.parts import Parts
    from utils.runtime.parallel import Team
    from utils.training.augmentation import NearThreshold
    from utils.training.loss_control import LossRule
    from utils.training.methods.base import Method
    from utils.training.process.base import Process
    from utils.training.regularisation import Regularisation
    from utils.training.steps.base import Step
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


class TrainedCopy:
    """One copy of the model on the device. Its state is the weights, the optimizer's moments and
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
        self.split = 0  # the split that the copy trains on
        self._set_up_networks(task)
        self._set_up_optimizer()
        self._set_up_loss_rule(task)

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
        self.augmentation: NearThreshold | None = None
        if task.hooks.augmentation is not None:
            self.augmentation = task.hooks.augmentation(images=task.images, device=self.device)

    def over_copies(self, counts: torch.Tensor) -> torch.Tensor:
        """Counts of this process's copies, summed over all copies: every process calls it. counts:
        int [N, ...]. Returns: int64 on the CPU."""
        own = counts if self.team.rank == 0 else torch.zeros_like(counts)
        return parallel.sum_over_processes(own.long(), self.device).cpu()

    # State ----------------------------------------------------------------------------------------

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

    # Checkpoints ----------------------------------------------------------------------------------

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
