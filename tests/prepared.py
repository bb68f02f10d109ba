"""Processes that have imported the libraries already: a server imports them once, and processes are
forked from it. Importing takes longer than most tests."""

from __future__ import annotations

import multiprocessing
from multiprocessing.context import BaseContext

# what the toolkit and its tests import
LIBRARIES = (
    "torch",
    "torch.utils.data",
    "torchvision.transforms",
    "pytest",
    "xdist",
    "numpy",
    "PIL.Image",
    "safetensors.torch",
    "timm",
    "transformers.models.clip",
    "diffusers.models.unets.unet_2d_condition",
    "diffusers.models.autoencoders.autoencoder_kl",
    "diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion",
    "diffusers.schedulers.scheduling_ddim",
    "accelerate",
    "matplotlib.pyplot",
    "tqdm",
    "faiss",
    "pyarrow.parquet",
)


def prepared_processes() -> BaseContext:
    """A context whose processes are forked from one that has imported the libraries."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(LIBRARIES))
    return context
