"""What the denoiser predicts, seen and replaced while a pipeline of diffusers runs its own loop.

The pipelines' step callback comes after the step and shows no predictions, and their embeddings are
joined before the loop. So this sits where every pipeline passes: at the denoiser's output, U-Net or
transformer, and at the scheduler's step."""

import contextlib
import functools
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Prediction:
    """What a hook gets at a step, and gives back, changed or not (`dataclasses.replace`).

    latents: [B, ...], the scheduler's sample before this step, not scaled as some schedulers do for
    the denoiser. timestep: float, on the scheduler's scale, 0 is clean. conditional, unconditional:
    [B, ...] what the denoiser predicts (noise, velocity or flow); unconditional is None where the
    pipeline runs without that branch. noise_factor: a difference of predictions times this is a
    difference of predicted noise. flow: whether the model predicts a flow."""

    latents: torch.Tensor
    timestep: float
    conditional: torch.Tensor
    unconditional: torch.Tensor | None
    noise_factor: float
    flow: bool = False


def noise_factor(scheduler, timestep):
    """What a difference of two predictions at a timestep is multiplied with to be the difference of
    their noise.

    With x = a x0 + s e: noise 1; velocity v = a e - s x0, hence e = a v + s x, a; flow v = e - x0
    with a = 1 - s, 1 - s; clean image, -a / s. Timesteps between whole numbers are interpolated.
    """
    kind = scheduler.config.get("prediction_type", "epsilon")
    if type(scheduler).__name__.startswith("FlowMatch"):
        return 1 - timestep / scheduler.config.num_train_timesteps
    if kind == "epsilon":
        return 1.0
    low = min(int(timestep), len(scheduler.alphas_cumprod) - 1)
    high, share = min(low + 1, len(scheduler.alphas_cumprod) - 1), timestep - int(timestep)
    signal = float(torch.lerp(scheduler.alphas_cumprod[low], scheduler.alphas_cumprod[high], share))
    return signal**0.5 if kind == "v_prediction" else -((signal / (1 - signal)) ** 0.5)


@contextlib.contextmanager
def steered(pipeline, family, hook, *, guided):
    """While open, for one call of the pipeline, `hook` (Prediction -> Prediction) is asked at every
    step; None: no one is.

    Its predictions go into the pipeline's own guidance, its latents and timestep into the
    scheduler's step. A timestep can be replaced where the scheduler computes from it (DDIM, DDPM);
    those that find their place by counting steps raise TypeError. guided: whether the call has an
    unconditional branch."""
    if hook is None:
        yield
        return
    denoiser, scheduler = getattr(pipeline, family.denoiser), pipeline.scheduler
    # of the step under way; "number" counts steps, because a denoiser may get its timestep in other
    # units or rounded
    now = {"number": -1}

    @functools.wraps(scheduler.step)
    def step(model_output, timestep, sample, *args, **kwargs):
        given, answer = now["given"], now["answer"]
        sample = sample if answer.latents is given.latents else answer.latents
        if answer.timestep != given.timestep:
            if hasattr(scheduler, "_step_index") or hasattr(scheduler, "counter"):
                raise TypeError(
                    f"{type(scheduler).__name__} counts its steps; a hook cannot replace its"
                    " timestep"
                )
            timestep = torch.as_tensor(answer.timestep).to(timestep)
        return scheduler_step(model_output, timestep, sample, *args, **kwargs)

    def scale_model_input(sample, *args, **kwargs):
        now["latents"] = sample
        return scheduler_scale(sample, *args, **kwargs)

    def ask(latents, conditional, unconditional):
        now["number"] += 1
        time = float(scheduler.timesteps[now["number"]])
        factor, flow = (
            noise_factor(scheduler, time),
            type(scheduler).__name__.startswith("FlowMatch"),
        )
        now["given"] = Prediction(latents, time, conditional, unconditional, factor, flow)
        now["answer"] = hook(now["given"])
        return now["answer"]

    def at_output(module, args, kwargs, output):
        seen = kwargs["hidden_states"] if "hidden_states" in kwargs else args[0]
        latents, (predicted, *others) = now.pop("latents", seen), output
        if not guided:
            return (ask(latents, predicted, None).conditional, *others)
        if family.joined:
            unconditional, conditional = predicted.chunk(2)
            answer = ask(latents.chunk(2)[0], conditional, unconditional)
            return (torch.cat([answer.unconditional, answer.conditional]), *others)
        if "first" not in now:
            now["first"] = predicted
            return None
        first = now.pop("first")
        answer = ask(latents, first.clone(), predicted)
        first.copy_(answer.conditional)  # the pipeline holds this tensor since its first call
        return (answer.unconditional, *others)

    scheduler_step, scheduler_scale = scheduler.step, getattr(scheduler, "scale_model_input", None)
    registered = denoiser.register_forward_hook(at_output, with_kwargs=True)
    scheduler.step = step
    if scheduler_scale is not None:
        scheduler.scale_model_input = scale_model_input
    try:
        yield
    finally:
        registered.remove()
        del scheduler.step
        if scheduler_scale is not None:
            del scheduler.scale_model_input
