"""One training step and one loop. Yields reports; previews, checkpoints, files and trackers are the caller's."""

import copy
from dataclasses import dataclass

import torch

from utils import seeding
from utils.data import training_data
from utils.diffusion import latents as lat
from utils.diffusion import models
from utils.errors import TrainingError


@dataclass(frozen=True)
class Optimisation:
    """AdamW and its schedule; steps count optimizer steps of one copy and are never multiplied by processes."""

    learning_rate: float
    betas: tuple
    weight_decay: float
    epsilon: float
    max_grad_norm: float
    schedule: str
    warmup_steps: int
    steps: int


@dataclass(frozen=True)
class StepReport:
    """After optimizer step `step` (from 1). loss: scalar tensor on the device, mean of this process; lr: applied."""

    step: int
    loss: torch.Tensor
    lr: float
    finite: torch.Tensor


def step_noise(seed, shard, step, slots, *, latent_shape, embedding_shape, num_timesteps):
    """The random numbers of a micro-batch, each slot from a generator of its own, on the CPU.

    slots: numbers in the global batch; latent_shape: (C, H, W); embedding_shape: (T, D) or None when no noise goes onto
    embeddings. Returns: dict of timesteps [B] int64 uniform on 0 ... num_timesteps - 1, posterior and noise
    [B, C, H, W], embedding [B, T, D] or None.
    """
    rows = []
    for slot in slots:
        generator = seeding.torch_generator(seed, "noise", shard, step, slot)
        timestep = torch.randint(num_timesteps, (), generator=generator)
        posterior, noise = (torch.randn(latent_shape, generator=generator) for _ in range(2))
        embedding = None if embedding_shape is None else torch.randn(embedding_shape, generator=generator)
        rows.append((timestep, posterior, noise, embedding))
    timesteps, posterior, noise, embedding = zip(*rows, strict=True)
    return {
        "timesteps": torch.stack(timesteps),
        "posterior": torch.stack(posterior),
        "noise": torch.stack(noise),
        "embedding": None if embedding_shape is None else torch.stack(embedding),
    }


class Training:
    """A U-Net in training beside a frozen autoencoder and text encoder."""

    def __init__(self, parts, *, accelerator, dtype, optimisation, hooks, seed, shard=0, resolution, still):
        """still: images look the same at every draw (no random crop, no flip) and their posteriors fit into memory."""
        from diffusers.optimization import get_scheduler

        self.parts, self.accelerator, self.dtype, self.hooks = parts, accelerator, dtype, hooks
        self.optimisation, self.seed, self.shard = optimisation, seed, shard
        self.noise_scheduler = parts.noise_scheduler
        # in half precision the frozen parts are copies, so that a checkpoint holds them as they came
        self.vae, self.text_encoder = (self._frozen(part) for part in (parts.vae, parts.text_encoder))
        optimizer = torch.optim.AdamW(
            parts.unet.requires_grad_(True).train().to(accelerator.device).parameters(),
            lr=optimisation.learning_rate, betas=optimisation.betas, weight_decay=optimisation.weight_decay,
            eps=optimisation.epsilon, fused=True,
        )  # fmt: skip
        self.unet, self.optimizer = accelerator.prepare(parts.unet, optimizer)
        # not prepared: accelerate would step it once per process
        self.schedule = get_scheduler(
            optimisation.schedule, optimizer, num_warmup_steps=optimisation.warmup_steps,
            num_training_steps=optimisation.steps,
        )  # fmt: skip
        self.finite = torch.ones((), dtype=torch.bool, device=accelerator.device)
        self.cache = lat.PosteriorCache(self.vae) if still else None
        side = resolution // parts.vae_factor
        self.latent_shape = (parts.vae.config.latent_channels, side, side)
        config = parts.text_encoder.config
        self.embedding_shape = (parts.tokenizer.model_max_length, config.hidden_size) if hooks.noise else None

    def _frozen(self, part):
        part.requires_grad_(False).eval()
        if self.dtype == torch.float32:
            return part.to(self.accelerator.device)
        return copy.deepcopy(part).to(self.accelerator.device, self.dtype)

    def _embed(self, prompts):
        return models.embed(self.parts.tokenizer, self.text_encoder, prompts, device=self.accelerator.device)

    @torch.no_grad()
    def inputs(self, batch, step):
        """A batch of Draws to what the U-Net needs: noisy latents, timesteps, embeddings and the wanted output."""
        device = self.accelerator.device
        drawn = step_noise(
            self.seed, self.shard, step, batch["slot"], latent_shape=self.latent_shape,
            embedding_shape=self.embedding_shape, num_timesteps=self.noise_scheduler.config.num_train_timesteps,
        )  # fmt: skip
        drawn = {k: v if v is None else v.to(device) for k, v in drawn.items()}
        pixels, noise, timesteps = batch["pixels"].to(device, self.dtype), drawn["noise"], drawn["timesteps"]
        posterior = drawn["posterior"].to(self.dtype)
        if self.cache is None:
            latents = lat.encode(self.vae, pixels, posterior).float()
        else:
            latents = self.cache.sample(batch["index"].tolist(), pixels, posterior).float()
        own = self._embed(batch["prompt"])
        partners, ratio = own, 1.0
        if self.hooks.mixup:
            partners = self._embed(batch["partner_prompt"])
            ratio = seeding.numpy_rng(self.seed, "mixup", self.shard, step, 1).beta(self.hooks.mixup, 1)
        embeddings = self.hooks.edit_embeddings(own, partners, ratio=float(ratio), noise=drawn["embedding"])
        noisy = self.noise_scheduler.add_noise(latents, noise, timesteps)
        return noisy, timesteps, embeddings, lat.target(self.noise_scheduler, latents, noise, timesteps)

    def micro_step(self, batch, step):
        """Forward and backward of micro-batch `step`; the optimizer steps when gradients are whole. Returns: [] loss."""
        with self.accelerator.accumulate(self.unet):
            noisy, timesteps, embeddings, wanted = self.inputs(batch, step)
            pred = self.unet(noisy, timesteps, encoder_hidden_states=embeddings).sample
            loss = lat.squared_error(pred, wanted).mean()
            self.accelerator.backward(loss)
            if self.accelerator.sync_gradients:
                norm = self.accelerator.clip_grad_norm_(self.unet.parameters(), self.optimisation.max_grad_norm)
                if self.accelerator.scaler is None:  # a scaler skips the step of an infinite gradient, which is no failure
                    self.finite = self.finite & norm.isfinite()
            self.optimizer.step()
            if self.accelerator.sync_gradients:
                self.schedule.step()
            self.optimizer.zero_grad()
        return loss.detach()

    def run(self, draws, *, batch_size, accumulation, num_workers):
        """Train for optimisation.steps. Yields: StepReport after each optimizer step; nothing waits for the device."""
        process = self.accelerator.process_index
        steps = range(self.optimisation.steps * accumulation)
        batches = training_data.loader(draws, steps=steps, batch_size=batch_size, process=process, num_workers=num_workers)
        losses = []
        for step, batch in zip(steps, batches, strict=True):
            lr = self.schedule.get_last_lr()[0]
            losses.append(self.micro_step(batch, step))
            self.finite = self.finite & losses[-1].isfinite()
            if len(losses) == accumulation:
                yield StepReport((step + 1) // accumulation, torch.stack(losses).mean(), lr, self.finite)
                losses = []

    def require_finite(self, step):
        """TrainingError before broken weights are saved; this waits, so call it only then."""
        if not all(p.isfinite().all() for p in self.parts.unet.parameters()):
            raise TrainingError(f"the weights are not finite after step {step}; what was saved before is kept. {ADVICE}")

    def pipeline(self):
        """The model as a float32 pipeline for previews and checkpoints; the weights are shared, not copied.

        Not through accelerate's unwrap_model: it may take the autocast off the forward of the very module that trains.
        """
        return models.assemble(self.parts)


ADVICE = "A lower --learning_rate, or --mixed_precision bf16 instead of fp16, usually helps"


def mean_loss(accelerator, reports):
    """Mean loss over StepReports and processes, a float; TrainingError when one was not finite. This waits.

    Call it at log steps and before anything is saved.
    """
    values = torch.stack([torch.stack([r.loss for r in reports]).mean(), reports[-1].finite.float()])
    loss, finite = accelerator.reduce(values, "mean").tolist()
    if finite < 1:
        first, last = reports[0].step, reports[-1].step
        raise TrainingError(
            f"a loss or gradient is not finite between steps {first} and {last}; what was saved before is kept, "
            f"nothing after. {ADVICE}"
        )
    return loss
