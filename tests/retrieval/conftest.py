"""What tests of evaluation share: noise images, and what a network on the CPU is wanted for."""

import numpy as np
import pytest
import torch
from PIL import Image

from utils.retrieval.descriptors.network import NetworkChoice, Wanted


@pytest.fixture(scope="session")
def wanted():
    """wanted(arch=..., ...) -> Wanted, on the CPU in float32; fields of its choice, and its flag."""

    def make(flag="--arch", **chosen):
        choice = NetworkChoice(**chosen)
        return Wanted(device=torch.device("cpu"), dtype=torch.float32, choice=choice, flag=flag)

    return make


@pytest.fixture(scope="session")
def noise():
    """noise(seed, width, height) -> PIL RGB of smooth noise."""

    def make(seed, width=64, height=None):
        rng = np.random.default_rng(seed)
        small = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8))
        return small.resize((width, height or width), Image.Resampling.BICUBIC)

    return make
