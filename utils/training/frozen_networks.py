"""The networks that do not learn: autoencoder and text encoders, and what was computed ahead."""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from utils.runtime import devices
from utils.training import latents as lat

if TYPE_CHECKING:
    from utils.models.parts import Parts
    from utils.training.frozen_outputs import CachedLatents, CachedTexts
    from utils.training.steps.base import Step, Text


class FrozenNetworks:
    """Autoencoder and text encoders of a run on its device.

    `cached_latents` and `cached_text` (utils/training/frozen_outputs.py) replace the networks when
    they are set."""

    def __init__(
        self,
        parts: Parts,
        step: Step,
        *,
        learning: Collection[str] = (),
        device: torch.device,
        dtype: torch.dtype,
    ):
        """learning: names of the text encoders that learn."""
        self.parts, self.step, self.device, self.dtype = parts, step, device, dtype
        self.vae: Any = None  # None: pixels are denoised
        if parts.vae is not None:
            self.vae = self._frozen(parts.vae, dtype if step.half_vae else torch.float32)
        # of those that do not learn, {name: text encoder}
        self.encoders = {
            name: self._frozen(each, self._dtype_of(name))
            for name, each in parts.encoders.items()
            if name not in learning
        }
        # whether prompts stay token ids, because text encoders learn
        self.learns_text = bool(learning)
        self.cached_latents: CachedLatents | None = None
        # {name of draws beside those of the training images: their latents}
        self.cached_beside: dict[str, CachedLatents] = {}
        self.cached_text: CachedTexts | None = None

    def in_float32(self) -> list[str]:
        """Names of the networks that compute in float32 where the run computes in half
        precision."""
        if self.dtype == torch.float32:
            return []
        networks = {"vae": self.vae} if self.vae is not None else {}
        networks |= self.encoders
        return [name for name, each in networks.items() if each.dtype == torch.float32]

    def keep(self, beside: str | None, latents: CachedLatents) -> None:
        """Take the latents of images from a cache from now on. beside: as in `latents`."""
        if beside is None:
            self.cached_latents = latents
        else:
            self.cached_beside[beside] = latents

    def _dtype_of(self, encoder):
        overflows = self.dtype == torch.float16 and encoder in self.step.float32_encoders
        return torch.float32 if overflows else self.dtype

    def _frozen(self, part, dtype):
        part.requires_grad_(False).eval()
        if part.dtype == dtype:
            return part.to(self.device)
        # a copy, so that a checkpoint holds the original
        return copy.deepcopy(part).to(self.device, dtype)

    def rest(self) -> None:
        """Move the networks whose outputs were computed ahead off the device, for the memory that
        they take. What still needs one brings it back."""
        if self.cached_latents is not None:
            self.vae.to("cpu")
        if self.cached_text is not None:
            for encoder in self.encoders.values():
                encoder.to("cpu")

    def ids(self, prompts: Sequence[str]) -> dict[str, torch.Tensor]:
        """{text encoder: token ids [B, T]} of prompts, on the device."""
        ids = self.step.token_ids(self.parts, prompts)
        return {name: devices.to_device(each, self.device) for name, each in ids.items()}

    def text(self, prompts: Sequence[str]) -> Text:
        """What the network reads of prompts, or their token ids where text encoders learn."""
        if self.learns_text:
            return self.ids(prompts)
        if self.cached_text is not None:
            kept = self.cached_text.text(prompts)
            return {name: devices.to_device(each, self.device) for name, each in kept.items()}
        encoders = {name: each.to(self.device) for name, each in self.encoders.items()}
        return self.step.text(encoders, self.ids(prompts))

    def latents(
        self, batch: Mapping[str, Any], noise: torch.Tensor, *, beside: str | None = None
    ) -> torch.Tensor:
        """A sample of the posterior of every image of a batch. noise: [B, C, h, w]; beside: name of
        the draws that the batch is of, if they are not those of the training images. Returns:
        float32 like noise."""
        cached = self.cached_latents if beside is None else self.cached_beside.get(beside)
        if cached is None:
            return self.encoded(batch["pixels"], noise)
        mean, std = devices.to_device(
            cached.moments(batch["row"], batch["flipped"]), self.device
        ).unbind(1)
        return lat.posterior_sample(mean.float(), std.float(), noise, **lat.scaling(self.vae))

    def encoded(self, pixels: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """A sample of the posterior of images that are not cached. pixels: [B, 3, H, W] in [-1, 1];
        noise: [B, C, h, w]. Returns: float32 like noise; without an autoencoder the pixels."""
        if self.vae is None:
            return devices.to_device(pixels, self.device).float()
        dtype = self.vae.dtype
        pixels = devices.to_device(pixels, self.device).to(dtype)
        return lat.encode(self.vae.to(self.device), pixels, noise.to(dtype)).float()
