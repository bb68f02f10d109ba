import pytest

from benchmarks import mitigations, quickstart
from tests.conftest import ROOT
from tests.pipelines import miniature


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A random SD 3 that reads three zero tokens in T5's place."""
    folder, pipeline = tmp_path_factory.mktemp("models") / "sd3", miniature("SD 3, 2 blocks")
    pipeline.register_modules(text_encoder_3=None, tokenizer_3=None)
    pipeline.register_to_config(_max_sequence_length=3)
    pipeline.save_pretrained(folder)
    return folder


def test_a_flow_model_is_fine_tuned_and_measured_without_and_with_a_mitigation(
    model, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(
        quickstart,
        "SAMPLING",
        {"--num_inference_steps": "2", "--guidance_scale": "3", "--scheduler": "none"},
    )
    monkeypatch.setattr(quickstart, "METRICS", ["similarity", "duplication"])
    sizes = ["--steps", "1", "--scenes", "6", "--images", "1"]
    mitigations.main(
        ["--model", str(model), "--out", str(tmp_path / "m"), *sizes, "--only", "none", "late500"]
    )
    out = capsys.readouterr().out
    assert "sd_mitigation.py" in out
    assert "--cfg_start 500" in out
    rows = (tmp_path / "m" / "table.md").read_text().splitlines()
    assert [row.split("|")[1].strip() for row in rows[2:]] == ["none", "static, `--cfg_start 500`"]
    images = [tmp_path / "m" / "images" / n / "generations" / "0.png" for n in ("none", "late500")]
    assert images[0].read_bytes() != images[1].read_bytes()


def test_every_row_has_flags_of_its_own():
    flags = [tuple(sorted(flags.items())) for _, _, flags in list(mitigations.ARMS.values())[1:]]
    assert len(set(flags)) == len(flags)
