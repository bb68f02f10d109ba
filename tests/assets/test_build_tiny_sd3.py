import math

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from assets import build_stages, model_figures, scene_batches
from assets import build_tiny_sd3 as build
from benchmarks.commands import flag_strings


@pytest.fixture
def small(monkeypatch):
    """The build in chunks of four steps; the models keep their size."""
    monkeypatch.setattr(scene_batches, "CHUNK", 8)
    monkeypatch.setattr(scene_batches, "BATCH", 4)
    monkeypatch.setattr(model_figures, "CAPTIONS", 2)
    monkeypatch.setattr(model_figures, "CALL", {"num_inference_steps": 1, "guidance_scale": 3.0})


def arguments(folder, steps):
    places = {"--out": folder / "model", "--work_dir": folder / "work"}
    return flag_strings(places | {"--device": "cpu", "--steps": steps})


def built(folder, *, steps=8, stop_after=None):
    """Run the build, stopped once after so many steps. Returns: the transformer's weights."""
    if stop_after is not None:
        with pytest.MonkeyPatch.context() as patch:
            update, count = build_stages.Stage.update, iter(range(stop_after))

            def dies(self, loss, warm_up=200):
                if next(count, None) is None:
                    raise KeyboardInterrupt
                update(self, loss, warm_up)

            patch.setattr(build_stages.Stage, "update", dies)
            with pytest.raises(KeyboardInterrupt):
                build.main(arguments(folder, 16 if stop_after < 6 else steps))
    build.main(arguments(folder, steps))
    return load_file(folder / "model" / "transformer" / "diffusion_pytorch_model.safetensors")


def test_a_build_that_was_stopped_and_shortened_is_the_short_one_and_is_measured(
    small, tmp_path, capsys
):
    # it was to take 16 steps, and 8 are chosen at step 4, while the rate is held
    whole, continued = built(tmp_path / "whole"), built(tmp_path / "stopped", stop_after=5)
    assert "transformer: continues at step 4" in capsys.readouterr().out
    for name in whole:
        assert torch.equal(continued[name], whole[name]), name
    card = (tmp_path / "whole" / "model" / "README.md").read_text()
    assert "8 steps of 16" in card
    assert "{" not in card  # every figure was filled in
    with pytest.raises(SystemExit, match="is at step 8 of 8, where the rate falls; use --steps 8"):
        build.main(arguments(tmp_path / "whole", 16))


def test_half_of_the_steps_have_one_zero_token_and_some_as_many_as_the_pipeline():
    rng = np.random.default_rng(0)
    counts = np.array([build.zero_tokens(rng) for _ in range(4000)])
    # of the other half, 1 is drawn where the logarithm is below that of 1.5
    alone = 0.5 + 0.5 * math.log(1.5) / math.log(512)
    assert np.mean(counts == 1) == pytest.approx(alone, abs=0.02)
    assert np.mean(counts >= 128) == pytest.approx(0.5 * 2 / 9, abs=0.02)
    assert (counts.min(), counts.max()) == (1, pytest.approx(512, abs=20))
