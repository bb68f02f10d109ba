import pytest
import torch

from tests.pipelines import miniature
from utils.models import pipeline_files
from utils.runtime import devices
from utils.runtime.errors import UsageError
from utils.training import memory_needed

# the published configuration of Flux.1-dev
FLUX = {
    "in_channels": 64,
    "num_layers": 19,
    "num_single_layers": 38,
    "attention_head_dim": 128,
    "num_attention_heads": 24,
    "joint_attention_dim": 4096,
    "pooled_projection_dim": 768,
    "guidance_embeds": True,
    "patch_size": 1,
}


def test_weights_are_counted_without_loading_any():
    unet = miniature("SDXL").unet
    configs = pipeline_files.Configs(
        index={"unet": ["diffusers", "UNet2DConditionModel"]},
        vae={},
        denoiser=dict(unet.config),
        scheduler={},
    )
    own = sum(p.numel() for p in unet.parameters())
    assert memory_needed.parameters("StableDiffusionXLPipeline", configs) == own


def test_flux_in_full_is_refused_with_the_memory_it_takes(monkeypatch):
    monkeypatch.setattr(devices, "total_memory", lambda device: 80 * 2**30)
    configs = pipeline_files.Configs(
        index={"transformer": ["diffusers", "FluxTransformer2DModel"]},
        vae={},
        denoiser=FLUX,
        scheduler={},
    )
    count = memory_needed.parameters("FluxPipeline", configs)
    assert count == 11_901_408_320
    with pytest.raises(
        UsageError, match="all 11.90 billion weights takes 177 GiB .* and cpu has 80 GiB"
    ):
        memory_needed.require_room("flux", count, torch.device("cpu"))
    memory_needed.require_room("xl", 2_567_463_684, torch.device("cpu"))
