"""Hooks at the denoiser of a diffusers pipeline: they see each prediction and may replace it.

The pipelines' own callback runs after a step and does not show the predictions, and the embeddings
of both branches are joined before the loop starts. So hooks run at the two places that every
pipeline passes: the output of the denoiser (a U-Net or a transformer) and the scheduler's step."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from utils.models.families import Family


@dataclass(frozen=True)
class Prediction:
    """One evaluation of the denoiser for a batch. A hook returns it, changed or not; it changes a
    field with `dataclasses.replace`."""

    # [B, ...]: the sample that the scheduler steps from, before the scaling that some schedulers
    # apply to the denoiser's input
    latents: torch.Tensor
    # on the scheduler's scale: 0 is clean
    timestep: float
    # [B, ...]: predicted noise, velocity or flow, as the model was trained
    conditional: torch.Tensor
    # [B, ...], or None when the pipeline runs without an unconditional branch
    unconditional: torch.Tensor | None
    # (difference of two predictions) * noise_factor = difference of their noise
    noise_factor: float
    # whether the model predicts a flow (SD 3, Flux)
    flow: bool = False

    @property
    def distance_factor(self) -> float:
        """Factor that turns the distance of two predictions into the distance of their noise; 1 for
        flow matching, where the distance of the noise would be 0 at the first step for any
        prompt."""
        return 1.0 if self.flow else abs(self.noise_factor)


class Hook(Protocol):
    """A function called at every evaluation of the denoiser. It may also have a method
    `report() -> list[dict]`: a dict per image of the batch, stored in the image's manifest row."""

    def __call__(self, prediction: Prediction) -> Prediction:
        """Return the prediction that the pipeline continues with."""


class Chain:
    """Several hooks as one, called in order: each sees what the one before it returned."""

    def __init__(self, hooks: Sequence[Hook]) -> None:
        self.hooks = hooks

    def __call__(self, prediction: Prediction) -> Prediction:
        for hook in self.hooks:
            prediction = hook(prediction)
        return prediction

    def report(self) -> list[dict]:
        """The reports of all hooks, merged: a dict per image; an empty list if no hook reports."""
        reports = [hook.report() for hook in self.hooks if hasattr(hook, "report")]
        return [
            {key: value for note in notes for key, value in note.items()}
            for notes in zip(*reports, strict=True)
        ]


def _predicts_flow(scheduler: Any) -> bool:
    return type(scheduler).__name__.startswith("FlowMatch")


def noise_factor(scheduler: Any, timestep: float) -> float:
    """Factor that turns the difference of two predictions at a timestep into the difference of
    their noise.

    With x = a x0 + s e it is 1 for noise; a for velocity v = a e - s x0, because e = a v + s x;
    1 - s for flow v = e - x0 with a = 1 - s; and -a / s for a clean image. a is interpolated at
    timesteps that are not whole numbers.
    """
    kind = scheduler.config.get("prediction_type", "epsilon")
    if _predicts_flow(scheduler):
        return 1 - timestep / scheduler.config.num_train_timesteps
    if kind == "epsilon":
        return 1.0
    low = min(int(timestep), len(scheduler.alphas_cumprod) - 1)
    high, share = min(low + 1, len(scheduler.alphas_cumprod) - 1), timestep - int(timestep)
    signal = float(torch.lerp(scheduler.alphas_cumprod[low], scheduler.alphas_cumprod[high], share))
    return signal**0.5 if kind == "v_prediction" else -((signal / (1 - signal)) ** 0.5)


class _Interception:
    """State of one call of a pipeline while a hook is active."""

    def __init__(self, scheduler: Any, hook: Hook, *, guided: bool, joined: bool) -> None:
        self.scheduler, self.hook = scheduler, hook
        self.guided, self.joined = guided, joined
        self.original_step = scheduler.step
        # None for flow-matching schedulers, which do not scale
        self.original_scale: Any = getattr(scheduler, "scale_model_input", None)
        # Evaluations are counted, because a denoiser may get its timestep rounded or in other units
        self.evaluation = -1
        self.latents: torch.Tensor | None = None  # before scaling, until the denoiser has run
        self.first: torch.Tensor | None = None  # the conditional branch, of two separate calls
        self.given: Prediction
        self.answer: Prediction

    def methods(self) -> dict[str, Callable]:
        """The scheduler's methods to replace, by name."""
        replaced = {"step": self._wrapped(self.original_step, self.step)}
        if self.original_scale is not None:
            replaced["scale_model_input"] = self._wrapped(self.original_scale, self.scale)
        return replaced

    @staticmethod
    def _wrapped(original: Callable, method: Callable) -> Callable:
        # pipelines inspect the signature of step; wraps keeps the original's
        @functools.wraps(original)
        def replacement(*args: Any, **kwargs: Any) -> Any:
            return method(*args, **kwargs)

        return replacement

    def scale(self, sample: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Keep the sample as it is before the scheduler scales it for the denoiser."""
        self.latents = sample
        return self.original_scale(sample, *args, **kwargs)

    def step(
        self,
        model_output: torch.Tensor,
        timestep: Any,
        sample: torch.Tensor,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        """The scheduler's step, from the latents and the timestep that the hook returned."""
        if self.answer.latents is not self.given.latents:
            sample = self.answer.latents
        if self.answer.timestep != self.given.timestep:
            if hasattr(self.scheduler, "_step_index") or hasattr(self.scheduler, "counter"):
                raise TypeError(
                    f"{type(self.scheduler).__name__} counts its steps; a hook cannot replace its"
                    " timestep"
                )
            timestep = torch.as_tensor(self.answer.timestep).to(timestep)
        return self.original_step(model_output, timestep, sample, *args, **kwargs)

    def ask(
        self,
        latents: torch.Tensor,
        conditional: torch.Tensor,
        unconditional: torch.Tensor | None,
    ) -> Prediction:
        """Call the hook. Returns: what it returned."""
        self.evaluation += 1
        timestep = float(self.scheduler.timesteps[self.evaluation])
        self.given = Prediction(
            latents=latents,
            timestep=timestep,
            conditional=conditional,
            unconditional=unconditional,
            noise_factor=noise_factor(self.scheduler, timestep),
            flow=_predicts_flow(self.scheduler),
        )
        self.answer = self.hook(self.given)
        return self.answer

    def at_output(self, module: torch.nn.Module, args: tuple, kwargs: dict, output: tuple) -> Any:
        """A forward hook of the denoiser. Returns: its output with the hook's predictions, or None
        to leave it as it is."""
        seen = kwargs["hidden_states"] if "hidden_states" in kwargs else args[0]
        latents = seen if self.latents is None else self.latents
        self.latents = None
        predicted, *others = output
        if not self.guided:
            return (self.ask(latents, predicted, None).conditional, *others)
        if self.joined:
            unconditional, conditional = predicted.chunk(2)
            answer = self.ask(latents.chunk(2)[0], conditional, unconditional)
            return (torch.cat([answer.unconditional, answer.conditional]), *others)
        if self.first is None:
            self.first = predicted
            return None
        first, self.first = self.first, None
        answer = self.ask(latents, first.clone(), predicted)
        first.copy_(answer.conditional)  # the pipeline has held this tensor since its first call
        return (answer.unconditional, *others)


@contextlib.contextmanager
def steered(pipeline: Any, family: Family, hook: Hook | None, *, guided: bool) -> Iterator[None]:
    """Call `hook` at every evaluation of the denoiser until the end of the block, which calls the
    pipeline once.

    The predictions that the hook returns enter the pipeline's own guidance; its latents and
    timestep enter the scheduler's step. A timestep can be replaced where the scheduler computes
    from it (DDIM, DDPM); schedulers that count their steps raise TypeError.

    pipeline: a diffusers pipeline.
    family: its families.Family.
    hook: None leaves the pipeline as it is.
    guided: whether the call has an unconditional branch.
    """
    if hook is None:
        yield
        return
    scheduler = pipeline.scheduler
    interception = _Interception(scheduler, hook, guided=guided, joined=family.joined)
    denoiser = getattr(pipeline, family.denoiser)
    registered = denoiser.register_forward_hook(interception.at_output, with_kwargs=True)
    replaced = interception.methods()
    for name, method in replaced.items():
        setattr(scheduler, name, method)
    try:
        yield
    finally:
        registered.remove()
        for name in replaced:
            delattr(scheduler, name)
