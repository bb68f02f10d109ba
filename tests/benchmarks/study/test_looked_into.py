import pytest
import torch
from safetensors.torch import save_file

from benchmarks.study import looked_into
from benchmarks.study.experiments import SMOKE, StudyPlan
from utils.files.whole_files import write_json


def test_the_same_prompt_twice_moves_nothing(micro_sd):
    assert looked_into.prompt_response(micro_sd, ["a red circle"] * 2) == pytest.approx(
        (0, 0), abs=1e-5
    )
    embeddings, predictions = looked_into.prompt_response(micro_sd, ["a red circle", "a blue star"])
    assert embeddings > 0.01
    assert predictions > 0


def test_weights_moved_by_hand(tmp_path):
    for name, values in (("base", [0.0, 0.0]), ("run", [3.0, 4.0])):
        (tmp_path / name / "unet").mkdir(parents=True)
        save_file(
            {"w": torch.tensor(values)},
            tmp_path / name / "unet" / "diffusion_pytorch_model.safetensors",
        )
    assert looked_into.distance_moved(tmp_path / "base", tmp_path / "run") == 5.0


def test_skipped_share_by_hand(tmp_path):
    (tmp_path / "skips.csv").write_text("image,drawn,skipped\na.png,30,3\nb.png,10,1\n")
    assert looked_into.skipped_share(tmp_path) == 0.1


def test_copies_by_the_texture_that_was_matched(tmp_path):
    plan = StudyPlan(tmp_path, SMOKE)
    write_json(
        plan.scenes("nodup", 1) / "specs.json",
        {
            "train/ring/000000.png": {"texture": "plain"},
            "train/star/000001.png": {"texture": "dotted"},
        },
    )
    report = plan.reports("nodup", 1)[0]
    report.mkdir(parents=True)
    (report / "matches.csv").write_text(
        "match,score\nring/000000.png,0.96\nring/000000.png,0.2\nstar/000001.png,0.3\n"
    )
    assert looked_into.copies_by_texture(plan, "nodup", 1) == {"plain": (1, 2), "dotted": (0, 1)}


def test_a_folder_without_a_study_is_named(tmp_path, capsys):
    with pytest.raises(SystemExit):
        looked_into.main(["--out", str(tmp_path)])
    assert "holds no runs of seed 1" in capsys.readouterr().err
