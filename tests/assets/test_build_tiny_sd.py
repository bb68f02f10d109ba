import json

import pytest
import torch
from safetensors.torch import load_file

from assets import build_stages, model_figures, scene_batches, tiny_sd_parts
from assets import build_tiny_sd as build
from benchmarks.commands import flag_strings


@pytest.fixture
def small(monkeypatch):
    """The build at a few steps of the smallest chunk; the models keep their size."""
    monkeypatch.setattr(scene_batches, "CHUNK", 32)
    monkeypatch.setattr(scene_batches, "BATCH", 8)
    monkeypatch.setattr(model_figures, "CAPTIONS", 20)


def weights(folder):
    return load_file(folder / "unet" / "diffusion_pytorch_model.safetensors")


def test_a_stopped_build_continues_to_the_same_model_and_measures_it(small, tmp_path, capsys):
    from diffusers import StableDiffusionPipeline

    def weights_of_build(name, *, stop_after=None):
        folders = {"--out": tmp_path / name, "--work_dir": tmp_path / f"work-{name}"}
        sizes = {"--device": "cpu", "--autoencoder_steps": 4, "--unet_steps": 16}
        arguments = flag_strings(folders | sizes)
        if stop_after is not None:
            with pytest.MonkeyPatch.context() as patch:
                update, count = build_stages.Stage.update, iter(range(stop_after))

                def dies(self, loss, warm_up=200):
                    if next(count, None) is None:
                        raise KeyboardInterrupt
                    update(self, loss, warm_up)

                patch.setattr(build_stages.Stage, "update", dies)
                with pytest.raises(KeyboardInterrupt):
                    build.main(arguments)
        build.main(arguments)
        return weights(tmp_path / name)

    # stopped in the second chunk of the U-Net's stage
    whole, continued = weights_of_build("whole"), weights_of_build("stopped", stop_after=14)
    assert "unet: continues at step 8" in capsys.readouterr().out
    for name in whole:
        assert torch.equal(continued[name], whole[name]), name
    StableDiffusionPipeline.from_pretrained(tmp_path / "whole")
    card = (tmp_path / "whole" / "README.md").read_text()
    assert "16 steps of 8" in card or "16 steps" in card
    facts = json.loads((tmp_path / "work-whole" / "facts.json").read_text())
    assert facts["scaling_factor"] > 0


def test_a_state_of_another_seed_is_refused(small, tmp_path):
    folders = {"--out": tmp_path / "m", "--work_dir": tmp_path / "w"}
    arguments = flag_strings(folders | {"--device": "cpu", "--autoencoder_steps": 4})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "train_unet", lambda *a: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            build.main(arguments)
        with pytest.raises(SystemExit, match="was made for .*'seed': 0.*, not .*'seed': 1"):
            build.main([*arguments, "--seed", "1"])


def test_a_state_of_another_vocabulary_is_refused(small, tmp_path, monkeypatch):
    folders = {"--out": tmp_path / "m", "--work_dir": tmp_path / "w"}
    sizes = {"--device": "cpu", "--autoencoder_steps": 4, "--unet_steps": 8}
    arguments = flag_strings(folders | sizes)
    monkeypatch.setattr(
        tiny_sd_parts, "save_pipeline", lambda *a: (_ for _ in ()).throw(KeyboardInterrupt)
    )
    with pytest.raises(KeyboardInterrupt):
        build.main(arguments)
    words = tiny_sd_parts.common_words()
    monkeypatch.setattr(tiny_sd_parts, "common_words", lambda: words[:-1])
    with pytest.raises(SystemExit, match="unet.safetensors was made for .*'vocabulary'"):
        build.main(arguments)
