"""One optimizer step of one copy of the model, and what stays with a copy. Files, previews and
trackers are the caller's."""

import contextlib
import copy
import math
from dataclasses import dataclass

import torch

from utils.models import loading
from utils.runtime import devices, seeding
from utils.runtime.errors import TrainingError, UsageError
from utils.training import ema
from utils.training import latents as lat

ADVICE = "A lower --learning_rate, or --mixed_precision bf16 instead of fp16, usually helps"


@dataclass(frozen=True)
class Optimisation:
    """AdamW and its schedule. steps: optimizer steps of one copy over all rounds, never multiplied
    by processes."""

    learning_rate: float
    betas: tuple
    weight_decay: float
    epsilon: float
    max_grad_norm: float
    schedule: str
    warmup_steps: int
    steps: int
    accumulation: int = 1
    snr_gamma: float | None = None
    use_ema: bool = False
    eight_bit: bool = False


@dataclass(frozen=True)
class StepReport:
    """After optimizer step `step` (from 1) of a copy. loss: [] on the device, this process's; lr:
    applied; finite: [] bool, whether everything so far was; skipped: [] share of samples that loss
    control dropped, None without it."""

    step: int
    loss: torch.Tensor
    lr: float
    finite: torch.Tensor
    skipped: torch.Tensor | None = None


def step_noise(seed, split, step, slots, *, latent_shape, embedding_shape, num_timesteps):
    """The random numbers of a micro-batch, each slot from a generator of its own, on the CPU.

    slots: numbers in the global batch; latent_shape: (C, H, W); embedding_shape: (T, D) or None
    when no noise goes onto embeddings. Returns: dict of timesteps [B] int64 uniform on 0 ...
    num_timesteps - 1, posterior and noise [B, C, H, W], embedding [B, T, D] or None."""
    rows = []
    for slot in slots:
        generator = seeding.torch_generator(seed, "noise", split, step, slot)
        timestep = torch.randint(num_timesteps, (), generator=generator)
        posterior, noise = (torch.randn(latent_shape, generator=generator) for _ in range(2))
        embedding = (
            None if embedding_shape is None else torch.randn(embedding_shape, generator=generator)
        )
        rows.append((timestep, posterior, noise, embedding))
    timesteps, posterior, noise, embedding = zip(*rows, strict=True)
    return {
        "timesteps": torch.stack(timesteps),
        "posterior": torch.stack(posterior),
        "noise": torch.stack(noise),
        "embedding": None if embedding_shape is None else torch.stack(embedding),
    }


def rate_at(optimisation):
    """The learning rate as a function of the optimizer steps of a copy, from 0: nothing to step,
    nothing to save."""
    from diffusers.optimization import get_scheduler

    # only its function is used: the object would count calls, and accelerate would make one per
    # process
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=optimisation.learning_rate)
    schedule = get_scheduler(
        optimisation.schedule,
        optimizer,
        num_warmup_steps=optimisation.warmup_steps,
        num_training_steps=optimisation.steps,
    )
    factor = schedule.lr_lambdas[0]
    return lambda step: optimisation.learning_rate * factor(step)


def make_optimizer(optimisation, parameters):
    """Fused AdamW, or AdamW with 8-bit moments; UsageError says what to install for the latter."""
    arguments = {
        "lr": optimisation.learning_rate,
        "betas": optimisation.betas,
        "eps": optimisation.epsilon,
        "weight_decay": optimisation.weight_decay,
    }
    if not optimisation.eight_bit:
        return torch.optim.AdamW(parameters, fused=True, **arguments)
    require_8bit()
    import bitsandbytes

    return bitsandbytes.optim.AdamW8bit(parameters, **arguments)


def require_8bit():
    """UsageError unless bitsandbytes can be imported."""
    import importlib.util

    if importlib.util.find_spec("bitsandbytes") is None:
        raise UsageError(
            "--use_8bit_adam needs the package bitsandbytes, which is not installed: pip install"
            " bitsandbytes"
        )


class Denoiser(torch.nn.Module):
    """What a step runs forward and backward through: the U-Net and, when it is trained, the text
    encoder."""

    def __init__(self, unet, text_encoder, edit):
        super().__init__()
        self.unet, self.text_encoder, self.edit = unet, text_encoder, edit

    def forward(self, noisy, timesteps, own, partners, ratio, noise):
        """own, partners: embeddings [B, T, D], or token ids [B, T] when the text encoder is
        trained. Returns: like noisy."""
        if self.text_encoder is not None:
            own, partners = (
                None if ids is None else self.text_encoder(ids)[0] for ids in (own, partners)
            )
        embeddings = self.edit(own, partners, ratio=ratio, noise=noise)
        return self.unet(noisy, timesteps, encoder_hidden_states=embeddings).sample


class Trainer:
    """A copy of the model in training. What it computes from: weights, moments, loss bank; all else
    follows from the seed and the step. `cached_latents` and `cached_text`
    (utils/training/frozen_outputs.py) stand for the frozen networks."""

    def __init__(
        self,
        parts,
        *,
        accelerator,
        team,
        dtype,
        optimisation,
        hooks,
        seed,
        resolution,
        train_text_encoder=False,
        gradient_checkpointing=False,
        compiled=False,
        control=None,
        images=0,
    ):
        self.parts, self.accelerator, self.team, self.dtype = parts, accelerator, team, dtype
        self.optimisation, self.hooks, self.seed, self.control = optimisation, hooks, seed, control
        self.device, self.split = accelerator.device, 0
        self.noise_scheduler, self.rate = parts.noise_scheduler, rate_at(optimisation)
        self.cached_latents = self.cached_text = None
        # in half precision the frozen parts are copies, so that a checkpoint holds them as they
        # came
        self.vae = self._frozen(parts.vae)
        self.text_encoder = None if train_text_encoder else self._frozen(parts.text_encoder)
        self.modules = {"unet": parts.unet} | (
            {"text_encoder": parts.text_encoder} if train_text_encoder else {}
        )
        for module in self.modules.values():
            module.requires_grad_(True).train().to(self.device)
        if gradient_checkpointing:
            parts.unet.enable_gradient_checkpointing()
            if train_text_encoder:
                parts.text_encoder.gradient_checkpointing_enable()
        self.weights = {
            f"{m}.{n}": p
            for m, module in self.modules.items()
            for n, p in module.named_parameters()
        }
        self.optimizer = make_optimizer(optimisation, list(self.weights.values()))
        denoiser = Denoiser(parts.unet, self.modules.get("text_encoder"), hooks.edit_embeddings)
        if compiled:
            denoiser.compile()
        self.denoiser = team.wrap(denoiser, self.device)
        half = accelerator.mixed_precision == "fp16"
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=half)
        self.first_scale = self.scaler.get_scale()  # loading a state makes it forget this
        self.ema = ema.WeightAverage(self.weights) if optimisation.use_ema else None
        self.finite = torch.ones((), dtype=torch.bool, device=self.device)
        # of each image of the run, how often loss control saw and dropped it
        self.counts = (
            torch.zeros(images, 2, dtype=torch.int32, device=self.device) if control else None
        )
        side = resolution // parts.vae_factor
        self.latent_shape = (parts.vae.config.latent_channels, side, side)
        config = parts.text_encoder.config
        self.embedding_shape = (
            (parts.tokenizer.model_max_length, config.hidden_size) if hooks.noise else None
        )

    def _frozen(self, part):
        part.requires_grad_(False).eval()
        if self.dtype == torch.float32:
            return part.to(self.device)
        return copy.deepcopy(part).to(self.device, self.dtype)

    # What a step sees -----------------------------------------------------------------------------

    def _text(self, prompts):
        """Embeddings of prompts [B, T, D], or their token ids [B, T] when the text encoder is
        trained."""
        if self.text_encoder is None:
            return devices.to_device(loading.token_ids(self.parts.tokenizer, prompts), self.device)
        if self.cached_text is not None:
            return devices.to_device(self.cached_text.embeddings(prompts), self.device)
        return loading.embed(self.parts.tokenizer, self.text_encoder, prompts, device=self.device)

    def _latents(self, batch, noise):
        """A sample of the posterior of every image of a batch. noise: [B, C, h, w]. Returns:
        float32 like noise."""
        if self.cached_latents is None:
            pixels = devices.to_device(batch["pixels"], self.device).to(self.dtype)
            return lat.encode(self.vae, pixels, noise.to(self.dtype)).float()
        mean, std = devices.to_device(
            self.cached_latents.moments(batch["row"], batch["flipped"]), self.device
        ).unbind(1)
        return lat.posterior_sample(
            mean.float(), std.float(), noise, scaling_factor=self.vae.config.scaling_factor
        )

    @torch.no_grad()
    def inputs(self, batch, step):
        """A batch of Draws as micro-batch `step` sees it. Returns: (arguments of the Denoiser,
        wanted output, timesteps)."""
        drawn = step_noise(
            self.seed,
            self.split,
            step,
            batch["slot"],
            latent_shape=self.latent_shape,
            embedding_shape=self.embedding_shape,
            num_timesteps=self.noise_scheduler.config.num_train_timesteps,
        )
        drawn = {k: v if v is None else devices.to_device(v, self.device) for k, v in drawn.items()}
        noise, timesteps = drawn["noise"], drawn["timesteps"]
        latents = self._latents(batch, drawn["posterior"])
        own, partners, ratio = self._text(batch["prompt"]), None, 1.0
        if self.hooks.mixup:
            partners = self._text(batch["partner_prompt"])
            ratio = float(
                seeding.numpy_rng(self.seed, "mixup", self.split, step, 1).beta(self.hooks.mixup, 1)
            )
        noisy = self.noise_scheduler.add_noise(latents, noise, timesteps)
        wanted = lat.target(self.noise_scheduler, latents, noise, timesteps)
        return (noisy, timesteps, own, partners, ratio, drawn["embedding"]), wanted, timesteps

    # A step ---------------------------------------------------------------------------------------

    def _loss(self, losses, timesteps, rows):
        """Losses per sample [B] to the loss of the micro-batch, and the share that loss control
        dropped (or None).

        With control: sum of kept losses over the number kept in the *global* batch; gradients are
        averaged over the team's processes, hence the factor. Min-SNR weights come after the rule
        and the bank, which see plain losses."""
        weighted = losses
        if self.optimisation.snr_gamma:
            weighted = losses * lat.snr_weights(
                self.noise_scheduler, timesteps, self.optimisation.snr_gamma
            )
        if self.control is None:
            return weighted.mean(), None
        every, at = self.team.gather(losses.detach()), self.team.gather(timesteps)
        kept = self.control.keep(every, at)
        self.control.update(every, at)
        seen = self.team.gather(devices.to_device(torch.tensor(rows), self.device))
        self.counts.index_add_(0, seen, torch.stack([torch.ones_like(kept), ~kept], 1).int())
        own = kept[self.team.rank * len(losses) : (self.team.rank + 1) * len(losses)]
        loss = (weighted * own).sum() * self.team.size / kept.sum().clamp_min(1)
        return loss, 1 - kept.float().mean()

    def _micro_step(self, batch, number, *, last):
        arguments, wanted, timesteps = self.inputs(batch, number)
        waits = contextlib.nullcontext() if last or self.team.size == 1 else self.denoiser.no_sync()
        with waits:
            with self.accelerator.autocast():
                pred = self.denoiser(*arguments)
            loss, skipped = self._loss(lat.squared_error(pred, wanted), timesteps, batch["row"])
            self.scaler.scale(loss / self.optimisation.accumulation).backward()
        return loss.detach(), skipped

    def step(self, batches, number):
        """Optimizer step `number` (of this copy, from 0) on the next micro-batches. Returns:
        StepReport. Nothing waits."""
        losses, skips, accumulation = [], [], self.optimisation.accumulation
        for micro in range(accumulation):
            loss, skipped = self._micro_step(
                next(batches), number * accumulation + micro, last=micro == accumulation - 1
            )
            losses.append(loss)
            skips += [] if skipped is None else [skipped]
        rate = self.rate(number)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.scaler.unscale_(self.optimizer)
        norm = torch.nn.utils.clip_grad_norm_(
            self.weights.values(), self.optimisation.max_grad_norm
        )
        loss = torch.stack(losses).mean()
        self.finite = self.finite & loss.isfinite()
        # a scaler skips the step of an infinite gradient, which is no failure
        if not self.scaler.is_enabled():
            self.finite = self.finite & norm.isfinite()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()
        if self.ema:
            self.ema.update(number)
        return StepReport(
            number + 1, loss, rate, self.finite, torch.stack(skips).mean() if skips else None
        )

    # What stays with a copy -----------------------------------------------------------------------

    def averaged(self):
        """{name: tensor} that an ensemble averages at a round's end: weights and, with EMA, their
        averages."""
        averages = {} if self.ema is None else {f"ema/{n}": t for n, t in self.ema.averages.items()}
        return {f"weights/{n}": p.detach() for n, p in self.weights.items()} | averages

    def copy_state(self):
        """Moments, loss bank and loss scale, in host memory: what is never averaged. Returns:
        {name: tensor}."""
        state = {}
        for name, parameter in self.weights.items():
            for key, value in self.optimizer.state.get(parameter, {}).items():
                state[f"moments/{name}/{key}"] = devices.to_host(torch.as_tensor(value))
        if self.control:
            state |= {f"control/{k}": devices.to_host(v) for k, v in self.control.state().items()}
        if self.scaler.is_enabled():
            held = self.scaler.state_dict()
            state["scaler"] = torch.tensor(
                [held["scale"], held["_growth_tracker"]], dtype=torch.float64
            )
        return state

    def load_copy(self, split, state):
        """Become the copy of a split; an empty state is that of a copy which has not trained
        yet."""
        self.split = split
        self.optimizer.state.clear()
        for name, parameter in self.weights.items():
            prefix = f"moments/{name}/"
            moments = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
            if moments:
                self.optimizer.state[parameter] = {
                    k: self._moment(k, v) for k, v in moments.items()
                }
        if self.control:
            self.control.reset()
            for key, tensor in self.control.state().items():
                if f"control/{key}" in state:
                    tensor.copy_(state[f"control/{key}"])
        if self.scaler.is_enabled():
            scale, growth = state["scaler"].tolist() if "scaler" in state else (self.first_scale, 0)
            held = self.scaler.state_dict() | {"scale": scale, "_growth_tracker": int(growth)}
            self.scaler.load_state_dict(held)

    def _moment(self, key, value):
        if self.optimisation.eight_bit and key == "step":
            return int(value)  # bitsandbytes counts in Python
        return value.to(self.device, copy=True)

    def require_finite(self, step):
        """TrainingError before broken weights are saved; this waits, so call it only then."""
        if not torch.stack([p.detach().isfinite().all() for p in self.weights.values()]).all():
            raise TrainingError(
                f"the weights are not finite after step {step}; what was saved before is kept."
                f" {ADVICE}"
            )

    @contextlib.contextmanager
    def pipeline(self):
        """The model as a float32 pipeline for previews and checkpoints: with the averaged weights
        under EMA. Weights are shared, not copied; modules are in eval mode inside."""
        if self.ema:
            self.ema.swap()
        for module in self.modules.values():
            module.eval()
        try:
            yield loading.assemble(self.parts)
        finally:
            for module in self.modules.values():
                module.train()
            if self.ema:
                self.ema.swap()


def first_not_finite(reports):
    """The first step of StepReports (oldest first) after which something was not finite, or NaN
    when all is. This waits."""
    if not reports or reports[-1].finite:
        return math.nan
    return next(r.step for r in reports if not r.finite)
