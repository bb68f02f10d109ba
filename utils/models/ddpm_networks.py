"""New DDPMs: the published networks by name, or one of a configuration file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from utils.files import whole_files
from utils.models.pipeline_files import Configs
from utils.runtime import seeding
from utils.runtime.errors import UsageError, first_line, require_file

if TYPE_CHECKING:
    from diffusers import DDPMPipeline


def _published(side: int, channels: tuple[int, ...]) -> dict[str, Any]:
    """The network of Ho et al. (2020): attention at the second level alone, with one head."""
    levels = len(channels)
    down, up = ["DownBlock2D"] * levels, ["UpBlock2D"] * levels
    down[1], up[-2] = "AttnDownBlock2D", "AttnUpBlock2D"
    return {
        "_class_name": "UNet2DModel",
        "sample_size": side,
        "block_out_channels": channels,
        "layers_per_block": 2,
        "dropout": 0.1,
        "attention_head_dim": 256,
        "down_block_types": tuple(down),
        "up_block_types": tuple(up),
    }


# --unconditional_arch -> configuration of its network
ARCHITECTURES = {
    "cifar": _published(32, (128, 256, 256, 256)),
    "afhq": _published(64, (128, 256, 256, 256, 512)),
}
# of the noise, as published: linear betas from 1e-4 to 0.02
SCHEDULER = {
    "num_train_timesteps": 1000,
    "beta_schedule": "linear",
    "beta_start": 1e-4,
    "beta_end": 0.02,
    "variance_type": "fixed_large",
}


def configuration(arch: str) -> dict[str, Any]:
    """The configuration of a network: of ARCHITECTURES, or of a config.json of UNet2DModel.
    UsageError for another name or another kind of network."""
    if arch in ARCHITECTURES:
        return ARCHITECTURES[arch]
    if not arch.endswith(".json"):
        raise UsageError(
            f"--unconditional_arch={arch!r} is not accepted; use one of:"
            f" {', '.join(ARCHITECTURES)}, or a config.json of UNet2DModel"
        )
    config = whole_files.read_json(Path(require_file("--unconditional_arch", arch)))
    kind = config.get("_class_name") if isinstance(config, dict) else None
    if kind != "UNet2DModel" or "block_out_channels" not in config:
        raise UsageError(
            f"--unconditional_arch={arch!r} describes {kind!r}; give a config.json of UNet2DModel"
            " with block_out_channels"
        )
    return config


def configs_of(config: dict[str, Any]) -> Configs:
    """What is known of a new pipeline before it is made."""
    index = {
        "_class_name": "DDPMPipeline",
        "scheduler": ["diffusers", "DDPMScheduler"],
        "unet": ["diffusers", "UNet2DModel"],
    }
    return Configs(index=index, vae={}, denoiser=config, scheduler=SCHEDULER)


def new_pipeline(
    config: dict[str, Any], *, side: int, labels: int | None, seed: int
) -> DDPMPipeline:
    """A pipeline with random weights, determined by the seed.

    side: of its images in pixels; labels: number of classes, with the null class; None: none.
    UsageError for a configuration that is no network."""
    from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel

    own = {"sample_size": side, "num_class_embeds": labels}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seeding.derive_seed(seed, "unet"))
        try:
            unet = UNet2DModel.from_config(config, **own)
        except (ValueError, TypeError, IndexError) as error:
            raise UsageError(
                f"--unconditional_arch: the configuration is no UNet2DModel: {first_line(error)}"
            ) from None
    return DDPMPipeline(unet=unet, scheduler=DDPMScheduler(**SCHEDULER))
