"""Runs that are checked for copies, by the random pipeline at 16 px.

It is too small to learn a picture by heart. So the pictures of the second run are the images that
the first one found to be generated at a check: at a rate of nearly 0 each image is then a copy."""

import json
import shutil
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from tests.conftest import SEED_FLAGS
from tests.watch.test_reference import smooth
from utils.cli import flags
from utils.cli.train_options import TrainOptions
from utils.generation import prompts
from utils.generation.sampling import Prompt
from utils.reports import copies_sheet
from utils.reports.galleries import FRAME
from utils.runtime.errors import UsageError
from utils.watch import watch_stage
from utils.watch.copy_watch import CopyWatch

PICTURES, HELD_OUT = 26, 20


def words(model, data, run, *more):
    return [
        *("--pretrained_model_name_or_path", str(model), "--instance_data_dir", str(data)),
        *("--class_prompt", "instancelevel_blip", "--resolution", "16", "--center_crop"),
        *("--train_batch_size", "2", "--max_train_steps", "2", "--lr_warmup_steps", "0"),
        *("--save_steps", "99", "--sample_batch_size", "1", "--log_steps", "1", "--seed", "3"),
        *("--holdout", str(HELD_OUT / PICTURES), "--output_dir", str(run), *more, *SEED_FLAGS),
    ]


@pytest.fixture(scope="module")
def place(tmp_path_factory, micro_sd):
    """Folder with `data`, 26 pictures with captions, and `run`, that of a run without checks."""
    import diff_train

    root = tmp_path_factory.mktemp("watched")
    (root / "data").mkdir()
    for n in range(PICTURES):
        smooth(n, 16).save(root / "data" / f"{n:02}.png")
        (root / "data" / f"{n:02}.txt").write_text(f"picture number {n}")
    diff_train.main(words(micro_sd, root / "data", root / "run", "--learning_rate", "1e-2"))
    return root


@pytest.fixture(scope="module")
def checked(place, micro_sd):
    """The folder of the same run with a check after each step."""
    import diff_train

    more = ("--learning_rate", "1e-2", "--copy_check_steps", "1", "--copy_check_prompts", "4")
    diff_train.main(words(micro_sd, place / "data", place / "checked", *more))
    return place / "checked"


@pytest.fixture(scope="module")
def copied(place, checked, micro_sd):
    """The folder of a run whose training pictures are what a check generates of its captions."""
    import diff_train

    data, seen = shutil.copytree(place / "data", place / "copies"), []

    def keep(real):
        def generate(*args):
            seen.append(real(*args))
            return seen[-1]

        return generate

    rate = ("--learning_rate", "1e-12", "--copy_check_steps", "1", "--stop_at_copy_share", "0.05")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CopyWatch, "_generate", keep(CopyWatch._generate))
        diff_train.main(words(micro_sd, data, place / "before", *rate))
    first = json.loads((place / "before" / "generations" / "1_copies.json").read_text())
    for row, image in zip(first, seen[0], strict=True):
        image.save(data / row["image"])
    diff_train.main(words(micro_sd, data, place / "copied", *rate))
    return place / "copied"


def rows(run):
    found = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [row for row in found if "copy_share" in row]


def test_checks_change_no_weight(place, checked):
    name = "checkpoint/unet/diffusion_pytorch_model.safetensors"
    plain, watched = load_file(place / "run" / name), load_file(checked / name)
    assert all(torch.equal(plain[key], watched[key]) for key in plain)


def test_a_check_leaves_a_row_with_share_similarity_and_losses(checked):
    first, second = rows(checked)
    assert set(first) == {
        *("step", "round", "samples", "threshold", "threshold_of", "sim_95pc"),
        *("copy_share", "copy_share_lo", "copy_share_hi", "copy_share_n"),
        *("loss_training", "loss_holdout"),
    }
    assert first["threshold_of"] == "aligned"
    assert first["copy_share_n"] == 4
    assert first["threshold"] == second["threshold"]
    assert first["loss_training"] != second["loss_training"]  # the model has learnt in between
    one, two = (
        json.loads((checked / "generations" / f"{n}_copies.json").read_text()) for n in (1, 2)
    )
    fixed = ("prompt", "image", "seed")
    assert [[r[k] for k in fixed] for r in one] == [[r[k] for k in fixed] for r in two]
    record = json.loads((checked / "run.json").read_text())
    captions = json.loads((checked / "captions.json").read_text())
    drawn = prompts.drawn_evenly({k: v[0] for k, v in captions.items()}, (), most=4, seed=1024)
    assert [r["image"] for r in one] == [p.source_image for p in drawn]
    assert not {r["image"] for r in one} & set(record["holdout"])
    assert record["copy_check_seconds"] > 0
    with Image.open(checked / "copying.png") as plot:
        assert plot.width > plot.height


def test_copies_are_found_framed_and_end_the_run(copied):
    (row,) = rows(copied)
    assert row["copy_share"] == 1.0
    assert row["copy_share_n"] == PICTURES - HELD_OUT
    assert row["copy_share_lo"] == pytest.approx(0.025 ** (1 / 6))
    record = json.loads((copied / "run.json").read_text())
    assert record["stopped_at_copy_share"]["step"] == 1
    found = json.loads((copied / "generations" / "1_copies.json").read_text())
    assert all(each["copy"] and each["match"] == each["image"] for each in found)
    with Image.open(copied / "generations" / "1_copies.png") as sheet:
        left, top = copies_sheet.corner_of(5)
        assert sheet.getpixel((left - 1, top + 20)) == FRAME
        beside = (left + copies_sheet.SIDE + copies_sheet.GAP + 9, top + 9)
        assert sheet.getpixel((left + 9, top + 9)) == sheet.getpixel(beside)


def test_the_best_checkpoint_is_generated_from_and_recorded(place, copied, script, refused):
    run = place / "before"  # its pictures were noise: every check was below
    assert rows(run)[-1]["copy_share"] == 0.0
    out, given = place / "images", ("-nb", 1, "--num_inference_steps", 2, "--modelpath")
    script("diff_inference", *given, run, "--checkpoint", "best", "--savepath", out)
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["settings"]["checkpoint"] == "best, step 2"
    line = refused("diff_inference", *given, copied, "--checkpoint", "best")
    assert "--checkpoint='best': the run has no checkpoint_best; it has: checkpoint;" in line
    line = refused("diff_inference", *given, run, "--checkpoint", "best", "--iternum", 1)
    assert "both name a checkpoint; leave one of them out" in line
    line = refused("diff_inference", *given, place / "data", "--checkpoint", "best")
    assert "--checkpoint=best names a checkpoint of a run" in line


def test_a_card_of_the_best_checkpoint(place, copied):
    from utils.card import card_subject

    model = card_subject.model_of(str(place / "before"), None, checkpoint="best")
    assert model.words[-2:] == ("--checkpoint", "best")
    assert model.identity["checkpoint"] == "best, step 2"
    assert model.checkpoints == []
    with pytest.raises(UsageError, match="the run has no checkpoint_best"):
        card_subject.model_of(str(copied), None, checkpoint="best")


def test_missing_weights_of_the_descriptor_are_said_before_training(
    refused, place, micro_sd, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)  # without pretrainedmodels/
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    more = ("--copy_check_steps", "1", "--copy_check_descriptor", "sscd")
    line = refused("diff_train", *words(micro_sd, place / "data", tmp_path / "r", *more))
    assert "--copy_check_descriptor='sscd': " in line
    assert line.endswith("or use --copy_check_descriptor pixel")
    assert not (tmp_path / "r" / "run.json").exists()


def test_dry_run_lists_what_checks_write(script, place, micro_sd, tmp_path):
    more = ("--copy_check_steps", "--stop_at_copy_share", "0.05", "--dry_run")
    printed = script("diff_train", *words(micro_sd, place / "data", tmp_path / "r", *more))
    plan = json.loads(printed[printed.index("{\n") :])
    assert plan["options"]["copy_check_steps"] == 500  # of the flag without a number
    names = {str(tmp_path / "r" / name) for name in ("copying.png", "checkpoint_best/")}
    assert names | {str(tmp_path / "r/generations/<step>_copies.png")} <= set(plan["writes"])
    more = ("--resume_from_checkpoint", "latest", "--dry_run")
    without = script("diff_train", *words(micro_sd, place / "data", tmp_path / "r", *more))
    assert "copying.png" not in without
    assert "has no state yet; the run starts at its first step" in script.noticed


def test_fewer_captions_than_a_check_asks_for_are_said(monkeypatch):
    said = []
    images = watch_stage.Images(
        [Prompt("a"), Prompt("b")], seed=0, side=16, guidance=1, batch_size=1
    )
    monkeypatch.setattr(watch_stage, "_images", lambda opts, job: images)
    monkeypatch.setattr(watch_stage, "_descriptor", lambda name, device: None)
    job = SimpleNamespace(model=SimpleNamespace(device=torch.device("cpu")))
    for asked in (2, 3):
        opts = SimpleNamespace(copy_check_prompts=asked, copy_check_descriptor="pixel")
        watch_stage.watch_of(opts, job, SimpleNamespace(say=said.append))
    (line,) = said
    assert "--copy_check_prompts=3: there are 2 training captions" in line


def test_duplicated_pictures_and_others_are_drawn_by_turns(monkeypatch):
    seen = {}
    monkeypatch.setattr(watch_stage, "drawn_evenly", lambda *a, **k: seen.update(many=a[1]) or [])

    class Job:
        duplicated = ("a.png",)

        class data:
            prompts = {"a.png": ["a"], "b.png": ["b"]}

    given = ["--pretrained_model_name_or_path", "m", "--instance_data_dir", "d"]
    given += ["--copy_check_guidance", "3"]
    for style, expected in (("dup_both", ("a.png",)), ("nodup", ())):
        opts = flags.parse(TrainOptions, [*given, "--duplication", style], description=None)
        watch_stage._images(opts, Job)
        assert seen["many"] == expected
