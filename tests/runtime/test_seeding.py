import subprocess
import sys

import numpy as np
import pytest
import torch

from utils.runtime import seeding


def test_a_seed_does_not_depend_on_the_process():
    # str hash() would: it is salted
    code = "from utils.runtime import seeding; print(seeding.derive_seed(5, 'noise', 3, 1))"
    other = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONHASHSEED": "1"},
    )
    assert int(other.stdout) == seeding.derive_seed(5, "noise", 3, 1)


def test_streams_indices_and_seeds_all_matter():
    seeds = {
        seeding.derive_seed(seed, stream, *index)
        for seed in (0, 1)
        for stream in seeding.STREAMS
        for index in ((0, 0), (0, 1), (1, 0), (1, 1), (2, 0))
    }
    assert len(seeds) == 2 * len(seeding.STREAMS) * 5
    assert all(0 <= s < 2**63 for s in seeds)


def test_no_two_streams_share_a_name_hash():
    import zlib

    assert len({zlib.crc32(name.encode()) for name in seeding.STREAMS}) == len(seeding.STREAMS)


def test_generators_repeat_and_an_undeclared_stream_is_an_error():
    assert np.array_equal(
        seeding.numpy_rng(1, "order", 2).random(4), seeding.numpy_rng(1, "order", 2).random(4)
    )
    first, again = (
        torch.randn(4, generator=seeding.torch_generator(1, "noise", 2)) for _ in range(2)
    )
    assert torch.equal(first, again)
    with pytest.raises(KeyError, match="not declared"):
        seeding.numpy_rng(0, "no such stream")
