"""--dry_run of every script: stdout is the plan as JSON and nothing else; what was noticed while it
was made goes to stderr."""

import json
import sys

import pytest


@pytest.fixture
def pictures(scenes_dir, tmp_path):
    """A folder with a picture and a file that is left out."""
    (tmp_path / "p").mkdir()
    picture = next((scenes_dir / "train").rglob("*.png"))
    (tmp_path / "p" / "0.png").write_bytes(picture.read_bytes())
    (tmp_path / "p" / "notes.xyz").write_text("x")
    return tmp_path / "p"


@pytest.mark.parametrize(
    ("name", "words", "noticed"),
    [
        (
            "diff_train",
            "--pretrained_model_name_or_path SD --instance_data_dir P --resolution 16 --arr_ema_decay 0.5",
            "--arr_ema_decay=0.5 has no effect",
        ),
        ("diff_inference", "--modelpath SD --prompt a --captoken x", "--captoken='x' has no eff"),
        (
            "sd_mitigation",
            "--modelpath SD --prompt a --rand_noise_lam 0.1 --captoken x",
            "--captoken='x' has no eff",
        ),
        (
            "diff_retrieval",
            "--query_dir P --val_dir P --pt_style pixel",
            "2 files, 1 images; left out: 1 .xyz",
        ),
        ("diff_retrieval", "--val_dir P --build_index I --pt_style pixel", "left out: 1 .xyz"),
    ],
)
def test_stdout_is_the_plan_alone(
    script, micro_sd, pictures, tmp_path, monkeypatch, name, words, noticed
):
    monkeypatch.chdir(tmp_path)
    given = {"SD": micro_sd, "P": pictures, "I": tmp_path / "index"}
    plan = json.loads(script(name, *(given.get(w, w) for w in words.split()), "--dry_run"))
    assert plan["writes"]
    assert noticed in script.noticed
    assert noticed not in json.dumps(plan)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("diff_inference", ("--scheduler", "DPMSolverMultistep")),
        ("sd_mitigation", ("--rand_noise_lam", 0.1)),
    ],
)
def test_the_plan_of_a_generation_needs_no_diffusers(
    script, micro_sd, tmp_path, monkeypatch, name, words
):
    """Importing it takes longer than the rest of the plan."""
    monkeypatch.setitem(sys.modules, "diffusers", None)  # an import of it raises
    given = ("--modelpath", micro_sd, "--prompt", "a", "--savepath", tmp_path / "g", *words)
    assert json.loads(script(name, *given, "--dry_run"))["images"] == 1
