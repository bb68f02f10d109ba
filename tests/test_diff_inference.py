import errno
import json
import os
import re
import shutil
import time

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image
from safetensors.torch import load_file, save_file

import diff_inference
from tests import launchers
from tests.original_layout import save_as_one_file
from utils.files import generation_folder

FAST = ("--num_inference_steps", 3)


def manifest_of(folder):
    return json.loads((folder / "manifest.json").read_text())


def images_of(folder):
    return [
        np.asarray(Image.open(folder / row["file"]), float) for row in manifest_of(folder)["images"]
    ]


def close(a, b):
    return all(np.abs(x - y).mean() < 0.5 for x, y in zip(a, b, strict=True))


@pytest.fixture
def infer(script, micro_run, tmp_path):
    """infer(*flags, model=...) -> the generation's folder."""
    count = iter(range(100))

    def run(*flags, model=micro_run, savepath=None):
        folder = savepath or tmp_path / f"g{next(count)}"
        run.printed = script(
            "diff_inference", "--modelpath", model, "--savepath", folder, *FAST, *flags
        )
        return folder

    return run


def test_a_generation_holds_what_it_says(infer, micro_run):
    folder = infer("-nb", 3, "-imb", 2)
    data = manifest_of(folder)
    rows = data["images"]
    assert [r["file"] for r in rows] == [f"generations/{i}.png" for i in range(6)]
    assert rows[0]["source_prompt"] == rows[1]["source_prompt"]
    captions = json.loads((micro_run / "captions.json").read_text())
    assert all(captions[r["source_image"]][0] == r["source_prompt"] == r["prompt"] for r in rows)
    assert (folder / "prompts.txt").read_text().splitlines() == [r["prompt"] for r in rows]
    assert (folder / data["run"]).resolve() == micro_run.resolve()
    assert data["settings"]["resolution"] == 16  # the run's
    assert data["safety_checker"] == "never loaded"
    assert {i.shape for i in images_of(folder)} == {(16, 16, 3)}
    assert "6 images (6 new)" in infer.printed


def test_most_images_without_finite_values_end_the_generation(refused, infer, micro_sd, tmp_path):
    """Black images match no training image: the measurement would say that nothing is copied."""
    model = shutil.copytree(micro_sd, tmp_path / "m")
    weights = model / "vae" / "diffusion_pytorch_model.safetensors"
    state = load_file(weights)
    # finite weights whose products are not
    state["decoder.conv_out.weight"] *= 1e38
    state["decoder.conv_norm_out.weight"] *= 1e38
    save_file(state, weights)
    line = refused(
        "diff_inference",
        "--modelpath",
        model,
        "--prompt",
        "x",
        "-nb",
        40,
        "--batch_size",
        4,
        "--resolution",
        16,
        "--savepath",
        tmp_path / "g",
        *FAST,
    )
    assert "16 of 16 images show nothing (16 not finite, 0 of one colour)" in line
    assert not (tmp_path / "g" / "manifest.json").exists()
    whole = infer("--prompt", "x", "-nb", 2)
    assert manifest_of(whole)["degenerate"] == {"not finite": 0, "one colour": 0}


def test_nothing_depends_on_the_number_of_prompts_or_the_batch(infer):
    few, many = infer("-nb", 2), infer("-nb", 5, "--batch_size", 2)
    assert manifest_of(few)["images"] == manifest_of(many)["images"][:2]
    assert close(images_of(few), images_of(many)[:2])


def test_the_seed_decides_prompts_and_images(infer):
    one, again, other = (manifest_of(infer("-nb", 4, "--seed", s))["images"] for s in (1, 1, 2))
    assert one == again
    assert one != other


# every flag that must change the pixels of the same prompt
CHANGES = [
    ("--rand_noise_lam", 0.8),
    ("--rand_augs", "rand_word_add"),
    ("--rand_augs", "rand_word_repeat"),
    ("--rand_augs", "rand_numb_add"),
    ("--num_inference_steps", 4),
    ("--guidance_scale", 2),
    ("--negative_prompt", "blue star"),
    ("--scheduler", "EulerDiscrete"),
    ("--seed", 9),
    ("--cfg_start", 500),
    ("--cfg_start", "auto"),
    ("--iternum", 2),
    ("--resolution", 24),
    ("--mixed_precision", "bf16"),
]


@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_a_flag_that_is_given_changes_the_images(infer, change):
    prompt = ("--prompt", "a red circle")
    plain, changed = images_of(infer(*prompt))[0], images_of(infer(*prompt, *change))[0]
    assert plain.shape != changed.shape or not np.array_equal(plain, changed)


def test_the_scale_before_the_transition_changes_the_images(infer):
    none, opposite = (
        images_of(infer("--prompt", "x", "--cfg_start", 500, "--cfg_before", w))[0] for w in (0, -2)
    )
    assert not np.array_equal(none, opposite)


def test_repeats_are_how_many_edits(infer):
    rows = [
        manifest_of(
            infer(
                "--prompt",
                "a red circle",
                "--rand_augs",
                "rand_word_repeat",
                "--rand_aug_repeats",
                n,
            )
        )["images"]
        for n in (1, 5)
    ]
    assert [len(r[0]["prompt"].split()) for r in rows] == [4, 8]
    assert {r[0]["source_prompt"] for r in rows} == {"a red circle"}


def test_prompts_from_files_in_order_and_again_when_there_are_too_few(infer, tmp_path, scenes_dir):
    (tmp_path / "p.txt").write_text("one\n\ntwo\n")
    (tmp_path / "p.jsonl").write_text('{"prompt": "one"}\n{"prompt": "two"}\n')
    (tmp_path / "p.json").write_text('["one", "two"]')
    for name in ("p.txt", "p.jsonl", "p.json"):
        rows = manifest_of(infer("--prompts", tmp_path / name, "-nb", 3))["images"]
        assert [r["prompt"] for r in rows] == ["one", "two", "one"]
        assert "-nb 3 is more than the 2 prompts given" in infer.printed
    captions = json.loads((scenes_dir / "captions.json").read_text())
    rows = manifest_of(infer("--prompts", scenes_dir / "captions.json"))["images"]
    assert [(r["source_image"], r["prompt"]) for r in rows] == [
        (k, v[0]) for k, v in captions.items()
    ]


def test_prompts_of_a_run_are_those_of_images_that_it_trained_on(
    infer, script, micro_sd, scenes_dir, tmp_path
):
    from tests.conftest import SEED_FLAGS

    run = tmp_path / "run"
    flags = {
        "pretrained_model_name_or_path": micro_sd,
        "instance_data_dir": scenes_dir / "train",
        "instance_prompt_loc": scenes_dir / "captions.json",
        "class_prompt": "instancelevel_blip",
        "holdout": 0.5,
        "resolution": 16,
        "max_train_steps": 1,
        "sample_batch_size": 1,
        "seed": 7,
        "output_dir": run,
    }
    script("diff_train", *(v for k, f in flags.items() for v in (f"--{k}", f)), *SEED_FLAGS)
    held = json.loads((run / "captions_holdout.json").read_text())
    trained = json.loads((run / "captions.json").read_text())
    for extra in (
        (),
        ("--capstyle", "instancelevel_ogcap"),
        ("--instance_prompt_loc", scenes_dir / "captions.json"),
    ):
        rows = manifest_of(infer("-nb", 40, *extra, model=run))["images"]
        assert {r["source_image"].removeprefix("train/") for r in rows} <= set(trained)
        assert not {r["prompt"] for r in rows} & {c for texts in held.values() for c in texts}


def test_prompts_of_a_run_follow_its_caption_template(
    infer, script, micro_sd, scenes_dir, tmp_path
):
    from tests.conftest import SEED_FLAGS

    run = tmp_path / "run"
    flags = {
        "pretrained_model_name_or_path": micro_sd,
        "instance_data_dir": scenes_dir / "train",
        "instance_prompt_loc": scenes_dir / "captions.json",
        "class_prompt": "instancelevel_blip",
        "caption_template": "sks, {caption}",
        "resolution": 16,
        "max_train_steps": 1,
        "sample_batch_size": 1,
        "seed": 7,
        "output_dir": run,
    }
    script("diff_train", *(v for k, f in flags.items() for v in (f"--{k}", f)), *SEED_FLAGS)
    for extra in (
        (),
        ("--capstyle", "instancelevel_ogcap"),
        ("--instance_prompt_loc", scenes_dir / "captions.json"),
    ):
        rows = manifest_of(infer("-nb", 5, *extra, model=run))["images"]
        assert all(r["prompt"].startswith("sks, ") for r in rows)
        assert not any(r["prompt"].startswith("sks, sks") for r in rows)


def test_class_prompts_are_drawn_over_classes(infer, micro_run):
    rows = manifest_of(infer("-nb", 12, "--capstyle", "classlevel"))["images"]
    classes = json.loads((micro_run / "run.json").read_text())["classes"]
    assert {r["prompt"] for r in rows} <= {f"An image of {c}" for c in classes}
    assert len({r["prompt"] for r in rows}) > 2
    assert all(r["source_image"] is None for r in rows)


def test_a_plain_pipeline_folder_takes_a_style_and_a_captions_file(infer, micro_sd, scenes_dir):
    flags = (
        "-nb",
        2,
        "--capstyle",
        "instancelevel_blip",
        "--instance_prompt_loc",
        scenes_dir / "captions.json",
    )
    rows = manifest_of(infer(*flags, "--resolution", 16, model=micro_sd))["images"]
    captions = json.loads((scenes_dir / "captions.json").read_text())
    assert all(captions[r["source_image"]][0] == r["prompt"] for r in rows)


def test_a_style_draws_from_a_metadata_jsonl_without_a_run(infer, micro_sd, tmp_path):
    path = tmp_path / "metadata.jsonl"
    path.write_text('{"file_name": "a.png", "text": "a red circle"}\n')
    flags = ("-nb", 2, "--capstyle", "instancelevel_blip", "--instance_prompt_loc", path)
    rows = manifest_of(infer(*flags, "--resolution", 16, model=micro_sd))["images"]
    assert [(r["source_image"], r["prompt"]) for r in rows] == [("a.png", "a red circle")] * 2


def test_a_base_model_by_name_is_rendered_at_its_own_size_and_reduced(script, micro_sd, tmp_path):
    shapes = {}
    for resolution in (8, 256):
        folder = tmp_path / str(resolution)
        script(
            "diff_inference",
            "--pretrained_model_name_or_path",
            micro_sd,
            "--prompt",
            "x",
            "--resolution",
            resolution,
            "--savepath",
            folder,
            *FAST,
        )
        shapes[resolution] = images_of(folder)[0].shape
        assert manifest_of(folder)["scheduler"] == "DPMSolverMultistepScheduler"
    assert shapes == {8: (8, 8, 3), 256: (16, 16, 3)}  # never enlarged


def test_default_folders_and_names(script, micro_run, infer, tmp_path, monkeypatch, micro_sd):
    import shutil

    run = shutil.copytree(micro_run, tmp_path / "run")
    script("diff_inference", "--modelpath", run, "-nb", 1, "--rand_noise_lam", 0.1, *FAST)
    (name,) = [p.name for p in (run / "inferences").iterdir()]
    assert name.startswith("gen_ginfer0.1-")
    assert len(name) == len("gen_ginfer0.1-") + 8
    monkeypatch.chdir(tmp_path)
    script(
        "diff_inference",
        "--modelpath",
        micro_sd,
        "--prompt",
        "x",
        "--run_name",
        "mine",
        "--resolution",
        16,
        *FAST,
    )
    assert (tmp_path / "inferences" / "micro-sd" / "mine" / "manifest.json").exists()


def test_a_finished_generation_is_reused_and_other_settings_are_refused(infer, refused, micro_run):
    folder = infer("-nb", 2)
    stamp = (folder / "generations" / "0.png").stat().st_mtime_ns
    infer("-nb", 2, savepath=folder)
    assert "2 images (0 new)" in infer.printed
    assert (folder / "generations" / "0.png").stat().st_mtime_ns == stamp
    line = refused(
        "diff_inference",
        "--modelpath",
        micro_run,
        "-nb",
        2,
        "--savepath",
        folder,
        *FAST,
        "--guidance_scale",
        2,
    )
    assert "--guidance_scale=2.0" in line
    assert "holds a generation with 7.5" in line


def test_an_interrupted_generation_continues_and_equals_the_whole(
    infer, refused, micro_run, monkeypatch, tmp_path
):
    whole = infer("-nb", 4, "-imb", 2, "--batch_size", 3)
    save, saved, broken = generation_folder.Generation._save_image, [], tmp_path / "broken"

    def stopped_at_five(self, image):
        if len(saved) == 5:
            raise KeyboardInterrupt
        saved.append(image.job.index)
        return save(self, image)

    command = (
        "--modelpath",
        micro_run,
        "--savepath",
        broken,
        *FAST,
        "-nb",
        4,
        "-imb",
        2,
        "--batch_size",
        3,
    )
    with monkeypatch.context() as patch:
        patch.setattr(generation_folder.Generation, "_save_image", stopped_at_five)
        with pytest.raises(SystemExit) as ended:
            diff_inference.main([str(a) for a in command])
    assert ended.value.code == 130
    assert not (broken / "manifest.json").exists()
    stamps = {i: (broken / "generations" / f"{i}.png").stat().st_mtime_ns for i in saved}
    infer("-nb", 4, "-imb", 2, "--batch_size", 3, savepath=broken)
    assert "8 images (3 new)" in infer.printed
    assert stamps == {i: (broken / "generations" / f"{i}.png").stat().st_mtime_ns for i in saved}
    assert manifest_of(broken)["images"] == manifest_of(whole)["images"]
    assert close(images_of(broken), images_of(whole))


def test_a_killed_generation_continues_and_equals_the_whole(infer, micro_run, tmp_path):
    """SIGKILL to a process of its own, in the middle of its images."""
    flags, broken = ("-nb", 120, "--batch_size", 2, "--rand_noise_lam", 0.3), tmp_path / "broken"
    command = ["--modelpath", micro_run, "--savepath", broken, *FAST, *flags]
    part = broken / "manifest.jsonl.part"
    with launchers.process("diff_inference.py", command, {}) as (process, _):
        while process.is_alive() and not (part.exists() and part.read_text().count("\n") > 3):
            time.sleep(0.002)
        process.kill()
        process.join()
        assert process.exitcode == -9
    infer(*flags, savepath=broken)
    left = int(re.search(r"120 images \((\d+) new\)", infer.printed)[1])
    assert 0 < left < 120
    whole = infer(*flags, "--batch_size", 8)
    assert manifest_of(broken)["images"] == manifest_of(whole)["images"]
    assert close(images_of(broken), images_of(whole))


def test_a_full_disk_is_one_line_and_loses_nothing(
    infer, refused, micro_run, monkeypatch, tmp_path
):
    save = generation_folder.Generation._save_image

    def full(self, image):
        if image.job.index == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return save(self, image)

    with monkeypatch.context() as patch:
        patch.setattr(generation_folder.Generation, "_save_image", full)
        line = refused(
            "diff_inference",
            "--modelpath",
            micro_run,
            "-nb",
            4,
            *FAST,
            "--savepath",
            tmp_path / "g",
            status=1,
        )
    assert "cannot write: [Errno 28] No space left on device" in line
    infer("-nb", 4, savepath=tmp_path / "g")
    # the last may have been saved beside the one that was not
    assert re.search(r"4 images \([12] new\)", infer.printed)


def test_long_prompts_are_cut_counted_and_said_once(infer, capsys):
    folder = infer("--prompt", "x" * 40, "--prompt", "y" * 40, "--prompt", "short", "-imb", 2)
    assert (
        infer.printed.count("2 prompts are longer than the 32 tokens that the model accepts") == 1
    )
    assert manifest_of(folder)["prompts_cut"] == 2
    assert manifest_of(infer("--prompt", "short"))["prompts_cut"] == 0


def test_compile_reaches_the_denoiser(infer, monkeypatch):
    called = []
    monkeypatch.setattr(
        torch, "compile", lambda function: lambda *a, **k: called.append(1) or function(*a, **k)
    )
    plain, compiled = infer("--prompt", "x"), infer("--prompt", "x", "--compile")
    assert len(called) == 3
    assert close(images_of(plain), images_of(compiled))


def test_lora_weights_change_the_images_and_belong_to_the_settings(infer, refused, micro_run, lora):
    plain, file, folder = (
        infer("-nb", 1),
        infer("-nb", 1, "--lora", next(lora.iterdir())),
        infer("-nb", 1, "--lora", lora),
    )
    assert not np.array_equal(images_of(plain)[0], images_of(file)[0])
    assert np.array_equal(images_of(file)[0], images_of(folder)[0])
    assert manifest_of(file)["settings"]["lora"] == manifest_of(folder)["settings"]["lora"]
    line = refused("diff_inference", "--modelpath", micro_run, "-nb", 1, "--savepath", file, *FAST)
    assert "--lora" in line


def test_lora_agrees_with_the_weights_added_by_hand(lora, micro_sd):
    """W + B A, with alpha / r = 1."""
    from utils.models import loading
    from utils.models import lora as lora_weights

    plain, changed = (loading.load_pipeline("--x", str(micro_sd)) for _ in range(2))
    lora_weights.load_lora(changed, str(lora))
    added = load_file(next(lora.iterdir()))
    before, after = plain.unet.state_dict(), changed.unet.state_dict()
    assert set(before) == set(after)
    for name in before:
        down, up = (
            added.get(f"unet.{name.removesuffix('.weight')}.lora.{part}.weight")
            for part in ("down", "up")
        )
        np.testing.assert_allclose(
            after[name], before[name] if up is None else before[name] + up @ down, atol=1e-5
        )
    assert len(added) == 2 * sum(not torch.equal(before[name], after[name]) for name in before)


def test_one_file_and_a_network_of_its_own_belong_to_the_settings(infer, micro_sd, tmp_path):
    pipeline = StableDiffusionPipeline.from_pretrained(micro_sd)
    file = save_as_one_file(pipeline, tmp_path / "model.safetensors")
    flags = ("--prompt", "x", "--resolution", 16)
    folder, one = (
        infer(*flags, model=micro_sd),
        infer(*flags, "--config", micro_sd, model=file),
    )
    assert np.array_equal(images_of(folder)[0], images_of(one)[0])
    with torch.no_grad():
        pipeline.unet.conv_in.weight += 1
    pipeline.unet.save_pretrained(tmp_path / "checkpoint-500" / "unet")
    other = infer(*flags, "--unet", tmp_path / "checkpoint-500", model=micro_sd)
    assert not np.array_equal(images_of(folder)[0], images_of(other)[0])
    of_folder, of_one, of_other = (manifest_of(each) for each in (folder, one, other))
    # a name of the content, wherever the file lies; and no key that was not there before
    assert re.fullmatch("[0-9a-f]{16}", of_one["settings"]["modelpath"])
    assert of_one["model"]["fingerprints"] == of_folder["model"]["fingerprints"]
    assert of_other["model"]["fingerprints"]["vae"] == of_folder["model"]["fingerprints"]["vae"]
    assert of_other["model"]["fingerprints"]["unet"] != of_folder["model"]["fingerprints"]["unet"]
    assert set(of_other["settings"]) - set(of_folder["settings"]) == {"unet"}
    assert of_other["model"]["unet"] == str(tmp_path / "checkpoint-500")


def test_a_tracker_gets_figures_and_images(infer, monkeypatch):
    from utils.reports import tracking

    class Recorder(tracking.NoTracker):
        def __init__(self, **given):
            Recorder.given, self.rows, self.images = given, [], []
            Recorder.last = self

        def log(self, row, step, group=None):
            self.rows.append(row)

        def image(self, name, path, step):
            self.images.append((name, Image.open(path).size))

    monkeypatch.setitem(tracking.TRACKERS, "tensorboard", Recorder)
    folder = infer(
        "--prompt", "x", "-nb", 3, "--report_to", "tensorboard", "--wandb_project", "mine"
    )
    (row,) = Recorder.last.rows
    assert (row["images"], row["images_new"], row["prompts_cut"]) == (3, 3, 0)
    assert row["images_per_second"] > 0
    assert Recorder.last.images == [(f"generations/{i}", (16, 16)) for i in range(3)]
    assert (Recorder.given["project"], Recorder.given["config"]) == (
        "mine",
        manifest_of(folder)["settings"],
    )


def test_images_are_saved_by_as_many_threads_as_asked(infer, monkeypatch):
    asked, pool = [], generation_folder.ThreadPoolExecutor
    monkeypatch.setattr(
        generation_folder,
        "ThreadPoolExecutor",
        lambda threads: asked.append(threads) or pool(threads),
    )
    infer("-nb", 1, "-j", 3)
    assert asked == [3]


def test_labels_and_flags_without_effect_are_said(infer):
    folder = infer("-nb", 1, "--dataset", "scenes", "--captoken", "x")
    assert manifest_of(folder)["label"] == "scenes"
    assert "--captoken='x' has no effect, as in the published script" in infer.printed


def test_dry_run_writes_nothing(infer):
    folder = infer("-nb", 2, "--dry_run")
    shown = json.loads(infer.printed)
    assert shown["images"] == 2
    assert shown["recognised"]["prompts"] == 2
    assert not folder.exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--modelpath", "RUN"], "-nb/--nbatches is required without --prompts"),
        (
            ["--modelpath", "/no/run", "-nb", 1],
            "--modelpath='/no/run' does not exist; give an existing folder",
        ),
        (
            ["--modelpath", "EMPTY", "-nb", 1],
            "is not a pipeline folder: it has no model_index.json",
        ),
        (
            ["--modelpath", "RUN", "-nb", 1, "--iternum", 3],
            "--iternum=3: the run has no checkpoint_3; it has: checkpoint, ch",
        ),
        (
            ["--modelpath", "RUN", "-nb", 1, "--rand_augs", "rand_x"],
            "--rand_augs='rand_x' is not accepted; use one of:",
        ),
        (
            ["--modelpath", "RUN", "-nb", 1, "--rand_noise_lam", 2],
            "--rand_noise_lam='2' is not accepted; use a number from",
        ),
        (
            ["--modelpath", "RUN", "-nb", 1, "--scheduler", "Fast"],
            "--scheduler='Fast' is unknown; choose one of:",
        ),
        (["--modelpath", "RUN", "-nb", 1, "--resolution", 20], "--resolution=20 is not accepted"),
        (
            ["--modelpath", "MODEL", "-nb", 1],
            "has no run.json to draw prompts from; give --prompts, --prompt, or --capstyle",
        ),
        (["--modelpath", "RUN", "--prompts", "EMPTY"], "is a folder; give an existing file"),
        (
            ["--modelpath", "RUN", "--prompts", "CSV"],
            "p.csv' holds no prompts, or entries that are not text",
        ),
        (
            ["--modelpath", "RUN", "--prompts", "XLSX"],
            "has an unknown suffix; use .txt, .json, .jsonl, .ndjson, .csv, .tsv, .parquet",
        ),
        (
            ["--modelpath", "RUN", "-nb", 1, "--caption_column", "x"],
            "--caption_column='x' names a column of a captions file; give the file with --prompts",
        ),
        (["--modelpath", "RUN", "--prompts", "BLANK"], "holds no prompts"),
        (
            ["--modelpath", "RUN", "-nb", 1, "-j", 0],
            "--num_workers='0' is not accepted; use a whole number at least 1",
        ),
        (
            ["--modelpath", "RUN", "-nb", 1, "--cfg_start", "soon"],
            "--cfg_start='soon' is not accepted; use 'auto' or a number at least 0",
        ),
        (
            ["--modelpath", "RUN", "-nb", 1, "--cfg_before", -2],
            "--cfg_before=-2 is the guidance scale while the timestep is above --cfg_start; give",
        ),
        (
            ["--modelpath", "RUN", "-nb", 1, "--lora", "/no/lora"],
            "--lora='/no/lora' does not exist; use a .safetensors file",
        ),
        (
            ["--modelpath", "RUN", "-nb", 1, "--lora", "nobody/none"],
            "is not a local file and could not be loaded from the hub",
        ),
        (
            ["--modelpath", "RUN", "-nb", 1, "--lora", "CSV"],
            "is not a .safetensors file, and other formats are not opened",
        ),
        (["--modelpath", "RUN", "-nb", 1, "--lora", "EMPTY"], "holds 0 .safetensors files"),
        (
            ["--modelpath", "RUN", "-nb", 1, "--lora", "TENSORS"],
            "holds no LoRA weights|does not fit a StableDiffusionPipeline",
        ),
        (
            ["-nb", 1, "--pretrained_model_name_or_path", "nobody/none", "--prompt", "x"],
            "could not be loaded from the local cache",
        ),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(
    refused, micro_run, micro_sd, tmp_path, monkeypatch, flags, message
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    for name in ("p.csv", "p.xlsx"):
        (tmp_path / name).write_text("x")
    (tmp_path / "blank.txt").write_text("\n")
    save_file({"unet.x": torch.zeros(2)}, tmp_path / "x.safetensors")
    places = {
        "RUN": micro_run,
        "MODEL": micro_sd,
        "EMPTY": tmp_path / "empty",
        "CSV": tmp_path / "p.csv",
        "XLSX": tmp_path / "p.xlsx",
        "BLANK": tmp_path / "blank.txt",
        "TENSORS": tmp_path / "x.safetensors",
    }
    before = sorted(p.name for p in tmp_path.rglob("*"))
    line = refused("diff_inference", *[places.get(f, f) for f in flags])
    assert any(m in line for m in message.split("|"))
    assert sorted(p.name for p in tmp_path.rglob("*")) == before
    assert not (micro_run / "inferences").exists()


def test_a_run_of_a_newer_version_is_refused(refused, tmp_path):
    (tmp_path / "run.json").write_text('{"kind": "run", "version": 2}')
    assert "version 2; this toolkit reads versions 1 to 1" in refused(
        "diff_inference", "--modelpath", tmp_path, "-nb", 1
    )
