from types import SimpleNamespace

from PIL import Image

from utils.generation import generation_stage


def test_reduction_never_enlarges():
    assert generation_stage.reduced(Image.new("RGB", (64, 64)), 32).size == (32, 32)
    assert generation_stage.reduced(Image.new("RGB", (64, 64)), 256).size == (64, 64)


def test_processes_share_what_is_missing_evenly_and_completely():
    for count in (1, 2, 3, 8):
        shares = [
            generation_stage._share(list(range(11)), SimpleNamespace(index=i, count=count))
            for i in range(count)
        ]
        assert sum(shares, []) == list(range(11))
        assert max(map(len, shares)) - min(map(len, shares)) <= 1
