import csv
import json
import math

import numpy as np
import pytest
from PIL import Image

from utils.errors import DataError, UsageError
from utils.evaluation import bootstrap
from utils.stages import run_comparison

SETTINGS = {"pt_style": "pixel", "similarity_metric": "dotproduct", "copy_threshold": 0.95, "dtype": "torch.float32",
            "val_fingerprint": "aaaaaaaa11", "fd": {"arch": "lite0", "weights_sha256": "5793" * 16}}  # fmt: skip


def evaluation(folder, *, scores=(0.9, 0.5, 0.7, 0.3), clip=None, metrics=None, settings=None, **fields):
    """An evaluation by hand: two images a prompt, best match and a second one each."""
    folder.mkdir(parents=True)
    flat = {"copy_share": 0.25, "copy_share_lo": 0.1, "copy_share_hi": 0.4, "copy_share_n": len(scores),
            "sim_mean": float(np.mean(scores)), "sim_95pc": float(np.percentile(scores, 95)), "sim_std": 0.1,
            "fd_lite0": 210.94}  # fmt: skip
    flat |= {"clipscore": float(np.mean(clip))} if clip else {}
    data = {"kind": "evaluation", "version": 1, **flat, **(metrics or {}), "settings": SETTINGS | (settings or {}),
            "counts": {"generated": len(scores)}, "left_out": {}}  # fmt: skip
    (folder / "metrics.json").write_text(json.dumps(data | fields))
    with open(folder / "matches.csv", "w", newline="") as handle:
        writer = csv.writer(handle)
        writer.writerow(["query", "rank", "match", "score", "prompt", *(["clipscore"] if clip else [])])
        for i, score in enumerate(scores):
            for rank in (1, 2):
                row = [f"{i}.png", rank, "m.png", score / rank, f"prompt, {i // 2}"]
                writer.writerow([*row, clip[i]] if clip else row)
    return folder


@pytest.fixture
def pair(tmp_path):
    return [evaluation(tmp_path / "runs" / name / "evaluations" / "pixel-1") for name in ("none", "noise")]


def read(dirs, *, force=False, seed=0):
    return run_comparison.read(dirs, force=force, seed=seed)


def test_the_table_by_hand(tmp_path):
    one = evaluation(tmp_path / "one", clip=[0.2, 0.3, 0.2, 0.3], metrics={"fid": 12.3456, "bg_95pc": 0.8})
    two = evaluation(
        tmp_path / "two", scores=(0.4, 0.4, 0.4, 0.4), metrics={"kid_mean": 0.01, "mq_05": 3, "mq_rate_05": 0.75}
    )
    found = read([one, two])
    assert found.metrics == ["copy_share", "sim_mean", "sim_95pc", "bg_95pc", "clipscore", "fid", "fd_lite0", "kid_mean",
                             "mq_rate_05"]  # fmt: skip
    head, _, first, second = [[c.strip() for c in line.split("|")[1:-1]] for line in found.table().split("\n")]
    assert head == ["run", "images", *found.metrics]
    # prompts of 0.9, 0.5 and of 0.7, 0.3: either may be drawn twice, then the means are 0.7 and 0.5, the percentiles 0.9 and 0.7
    assert first == ["one", "4", "0.25 [0.1, 0.4]", "0.6 [0.5, 0.7]", "0.87 [0.7, 0.9]", "0.8", "0.25 [0.25, 0.25]", "12.35",
                     "210.9", "–", "–"]  # fmt: skip
    assert second[3:5] == ["0.4 [0.4, 0.4]", "0.4 [0.4, 0.4]"]
    assert second[-2:] == ["0.01", "0.75"]
    assert found.notes == []


def test_intervals_resample_prompts_of_best_matches_from_the_seed(tmp_path):
    rng = np.random.default_rng(0)
    scores, clip = rng.random(60).round(3).tolist(), rng.random(60).round(3).tolist()
    dirs = [evaluation(tmp_path / name, scores=scores, clip=clip) for name in "ab"]
    metrics = read(dirs, seed=7).runs[0].metrics
    prompts = [f"prompt, {i // 2}" for i in range(60)]
    for name, values, statistic in (
        ("sim_mean", scores, bootstrap.mean),
        ("sim_95pc", scores, bootstrap.percentile(95)),
        ("clipscore", clip, bootstrap.mean),
    ):
        expected = bootstrap.bootstrap_statistic(values, prompts, statistic, seed=7)
        assert (metrics[f"{name}_lo"], metrics[f"{name}_hi"]) == expected
        assert metrics[f"{name}_lo"] < metrics[name] < metrics[f"{name}_hi"]
    assert (metrics["copy_share_lo"], metrics["copy_share_hi"]) == (0.1, 0.4)
    assert read(dirs, seed=8).runs[0].metrics["sim_mean_lo"] != metrics["sim_mean_lo"]


def test_one_prompt_has_no_interval_and_images_without_prompts_stand_for_themselves(tmp_path):
    one = evaluation(tmp_path / "one", scores=(0.2, 0.4))
    two = evaluation(tmp_path / "two", scores=(0.2, 0.4))
    text = (two / "matches.csv").read_text()
    (two / "matches.csv").write_text(text.replace('"prompt, 0"', ""))
    found = read([one, two])
    assert "sim_mean_lo" not in found.runs[0].metrics
    assert found.runs[1].metrics["sim_mean_lo"] == pytest.approx(0.2)
    assert found.runs[1].metrics["sim_mean_hi"] == pytest.approx(0.4)


def test_intervals_that_an_evaluation_has_are_kept(tmp_path):
    dirs = [evaluation(tmp_path / n, metrics={"sim_mean_lo": 0.11, "sim_mean_hi": 0.99}) for n in "ab"]
    assert read(dirs).runs[0].metrics["sim_mean_lo"] == 0.11


def test_a_generation_folder_stands_for_its_only_evaluation(pair, tmp_path):
    given = [p.parent.parent for p in pair]
    found = read(given)
    assert [r.folder for r in found.runs] == pair
    assert [r.label for r in found.runs] == ["none", "noise"]
    (given[0] / "evaluations" / ".pixel-1.12.part").mkdir()
    (given[0] / "evaluations" / ".pixel-1.12.part" / "metrics.json").write_text("")
    assert read(given).runs[0].folder == pair[0]
    evaluation(given[0] / "evaluations" / "sscd-2")
    with pytest.raises(UsageError) as error:
        read(given)
    assert str(error.value) == (
        f"--compare_runs='{given[0]}' holds 2 evaluations; give one of them: evaluations/{{pixel-1, sscd-2}}"
    )
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError) as error:
        read([tmp_path / "empty", pair[0]])
    assert str(error.value) == (
        f"--compare_runs='{tmp_path / 'empty'}' holds no evaluation; takes a folder that diff_retrieval.py wrote"
    )


def test_two_different_folders_are_needed(pair, tmp_path):
    with pytest.raises(UsageError, match="^--compare_runs compares evaluations; takes 2 folders or more, got 1$"):
        read(pair[:1])
    with pytest.raises(UsageError, match="'.*none/evaluations/pixel-1' are the same evaluation; takes each once$"):
        read([*pair, pair[0].parent.parent])
    with pytest.raises(UsageError, match="--compare_runs='.*absent' does not exist; give an existing folder"):
        read([pair[0], tmp_path / "absent"])


@pytest.mark.parametrize(
    ("paths", "expected"),
    [
        (["/r/images/none/evaluations/e", "/r/images/noise/evaluations/e"], ["none", "noise"]),
        (["/r/A/gen/evaluations/e", "/r/B/gen/evaluations/e"], ["A", "B"]),
        (["/r/A/gen/evaluations/e", "/r/B/gen/evaluations/e", "/r/A/mit/evaluations/e"], ["A/gen", "B/gen", "A/mit"]),
        (["/A/x/gen1", "/B/x/gen2"], ["A/gen1", "B/gen2"]),
        (["/r/gen/evaluations/sscd-1", "/r/gen/evaluations/pixel-1"], ["sscd-1", "pixel-1"]),
        (["/r/a/e", "/r/a/b/e"], ["a", "a/b"]),
        (["/r/none", "/r/x/y/noise"], ["none", "x/y/noise"]),
    ],
)
def test_labels_are_the_parts_of_paths_that_differ(paths, expected):
    assert run_comparison.labels([run_comparison.Path(p) for p in paths]) == expected


@pytest.mark.parametrize(
    ("settings", "line", "marked"),
    [
        ({"pt_style": "sscd", "arch": "resnet50"}, "pt_style is 'pixel' in 'one' and 'sscd' in 'two'",
         {"copy_share", "sim_mean", "sim_95pc", "sim_std"}),
        ({"preset": "dcr"}, "preset is None in 'one' and 'dcr' in 'two'", {"copy_share", "sim_mean", "sim_95pc", "sim_std"}),
        ({"weights_sha256": "0123456789abcdef"}, "weights_sha256 is None in 'one' and 0123456789ab in 'two'",
         {"copy_share", "sim_mean", "sim_95pc", "sim_std"}),
        ({"imsize": 224}, "imsize is None in 'one' and 224 in 'two'", {"copy_share", "sim_mean", "sim_95pc", "sim_std"}),
        ({"copy_threshold": 0.5}, "copy_threshold is 0.95 in 'one' and 0.5 in 'two'", {"copy_share"}),
        ({"dtype": "torch.float16"}, "dtype is 'torch.float32' in 'one' and 'torch.float16' in 'two'",
         {"copy_share", "sim_mean", "sim_95pc", "sim_std", "fd_lite0", "fid", "clipscore"}),
        ({"fd": {"arch": "lite0", "weights_sha256": "f" * 64}},
         "fd.weights_sha256 is 579357935793 in 'one' and ffffffffffff in 'two'", {"fd_lite0"}),
        ({"fid": {"protocol": "dcr"}}, "fid.protocol is 'ours' in 'one' and 'dcr' in 'two'", {"fid"}),
        ({"clip": {"model": "L"}}, "clip.model is 'B' in 'one' and 'L' in 'two'", {"clipscore"}),
        ({"mq_flip": True}, "mq.mq_flip is False in 'one' and True in 'two'", {"mq_rate_05"}),
    ],
)  # fmt: skip
def test_numbers_that_were_not_measured_alike_are_refused_and_with_force_marked(tmp_path, settings, line, marked):
    both = {"fid": {"protocol": "ours"}, "clip": {"model": "B"}, "mq": {"mq_size": 64}, "mq_flip": False}
    more = {"fid": 3.0, "clipscore": 0.2, "mq_rate_05": 0.1}
    one = evaluation(tmp_path / "one", clip=[0.2] * 4, metrics=more, settings=both)
    two = evaluation(tmp_path / "two", clip=[0.2] * 4, metrics=more, settings=both | settings)
    with pytest.raises(UsageError) as error:
        read([one, two])
    assert str(error.value) == (
        f"--compare_runs: {line}; takes evaluations that measured alike, or --force to compare them all the same"
    )
    found = read([one, two], force=True)
    assert set(found.marked) == marked
    assert len(found.notes) == len(settings)
    assert found.notes[0].startswith(f"not measured alike: {line.split(' is ')[0]}: ")
    head = found.table().split("\n")[0]
    assert {c.strip().rstrip("*") for c in head.split("|") if c.strip().endswith("*")} == marked & set(found.metrics)


def test_all_runs_of_a_value_are_named_and_a_metric_that_one_lacks_is_not_compared(tmp_path):
    thresholds = {"a": 0.9, "b": 0.5, "c": 0.9}
    dirs = [evaluation(tmp_path / n, settings={"copy_threshold": t, "fd": None if n == "a" else {"arch": "x"}})
            for n, t in thresholds.items()]  # fmt: skip
    found = read(dirs, force=True)
    assert found.notes == [
        "not measured alike: copy_threshold: 0.9 (a, c), 0.5 (b); its metrics are marked with *",
    ]


def test_kernel_distance_and_coverage_of_two_networks_are_not_alike(tmp_path):
    # the one had Inception's weights, the other had not and took those of its fd
    more = {"kid_mean": 0.01, "recall": 0.5}
    one = evaluation(tmp_path / "one", metrics=more | {"fid": 9.0}, settings={"fid": {"weights": "inception"}})
    two = evaluation(tmp_path / "two", metrics=more)
    with pytest.raises(UsageError, match="kid.weights is 'inception' in 'one' and None in 'two'"):
        read([one, two])
    assert read([one, two], force=True).marked == {"kid_mean", "recall"}
    without = evaluation(tmp_path / "without")
    assert read([one, without]).marked == frozenset()


def test_other_training_images_and_numbers_of_images_are_noted_not_refused(tmp_path):
    one = evaluation(tmp_path / "one")
    two = evaluation(
        tmp_path / "two", scores=(0.1, 0.2), settings={"val_fingerprint": "bbbbbbbb22", "query_dir": "x", "seed": 9}
    )
    found = read([one, two])
    assert found.marked == frozenset()
    assert found.notes == [
        "training images differ: aaaaaaaa11 (one), bbbbbbbb22 (two)",
        "numbers of images differ: 4 (one), 2 (two); a Frechet distance of fewer images comes out larger",
    ]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("metrics.json", "{", "metrics.json: is not JSON"),
        ("metrics.json", "[1]", "metrics.json: holds 'list'; a manifest of kind 'evaluation' is needed"),
        (
            "metrics.json",
            '{"kind": "evaluation", "version": 2}',
            "metrics.json: version 2; this toolkit reads versions 1 to 1",
        ),
        ("metrics.json", '{"kind": "evaluation", "version": 1}', "metrics.json: has no 'settings'"),
        ("matches.csv", None, "matches.csv: cannot be read (No such file or directory)"),
        ("matches.csv", "", "matches.csv: has no column 'query'"),
        ("matches.csv", "query,rank,score\n", "matches.csv: has no column 'prompt'"),
        ("matches.csv", "query,rank,score,prompt\n0,2,0.5,p\n", "matches.csv: holds no match of rank 1"),
        ("matches.csv", "query,rank,score,prompt\n0,1,x,p\n", "matches.csv: column 'score': could not convert string"),
        (
            "matches.csv",
            "query,rank,score,prompt\n0,1,nan,p\n",
            "matches.csv: column 'score' holds a number that is not finite",
        ),
        ("matches.csv", "query,rank,score,prompt\n0,1,,p\n", "matches.csv: column 'score' is empty"),
        ("matches.csv", "query,rank,score,prompt\n0,1,0.5," + "p" * 200_000, "matches.csv: is not CSV (field larger"),
    ],
)
def test_files_that_cannot_be_read_are_one_line(pair, name, text, message):
    path = pair[1] / name
    path.unlink() if text is None else path.write_text(text)
    with pytest.raises(DataError) as error:
        read(pair)
    assert str(error.value).startswith(f"{path.parent}/{message}")
    assert "\n" not in str(error.value)


def test_numbers_alone_are_metrics(tmp_path):
    odd = {"fid": math.nan, "recall": math.inf, "precision": None, "density": True, "coverage": 1}
    found = read([evaluation(tmp_path / n, metrics=odd) for n in "ab"])
    assert found.metrics[-1] == "coverage"
    assert not {"fid", "recall", "precision", "density", "version"} & set(found.runs[0].metrics)


def test_what_is_written(tmp_path, monkeypatch):
    one = evaluation(tmp_path / "e" / "one|$x_1$", settings={"copy_threshold": 0.5})
    two = evaluation(tmp_path / "e" / "two", scores=(0.1, 0.2, 0.3, 0.4), metrics={"fid": 9.0})
    found = read([one, two], force=True)
    out = tmp_path / "out" / "comparison"
    seen = {}
    drawn = run_comparison.plots.comparison

    def draw(path, named, panels, **others):
        seen.update(named=named, panels=dict(panels), **others)
        drawn(path, named, panels, **others)

    monkeypatch.setattr(run_comparison.plots, "comparison", draw)
    assert run_comparison.write(found, out) == out
    assert sorted(p.name for p in out.iterdir()) == sorted(run_comparison.FILES)
    assert [p.name for p in out.parent.iterdir()] == ["comparison"]
    with open(out / "comparison.csv", newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert [r["run"] for r in rows] == ["one|$x_1$", "two"]
    assert (out / rows[0]["folder"]).resolve() == one
    assert [float(rows[1][k]) for k in ("images", "copy_share_lo", "sim_mean", "fid", "sim_std")] == [4, 0.1, 0.25, 9, 0.1]
    assert float(rows[1]["sim_mean_lo"]) == pytest.approx(0.15)  # both draws are of the first prompt
    assert rows[0]["fid"] == ""
    record = json.loads((out / "comparison.json").read_text())
    assert (record["kind"], record["version"], record["seed"]) == ("comparison", 1, 0)
    assert record["not_measured_alike"] == ["copy_share"]
    assert record["notes"] == found.notes
    assert record["runs"][1]["metrics"]["fid"] == 9
    text = (out / "comparison.md").read_text()
    assert text.startswith(found.table())
    assert "one\\|$x_1$" in text
    assert all(note in text for note in found.notes)
    assert seen["named"]["two"].tolist() == [0.1, 0.2, 0.3, 0.4]
    assert (seen["threshold"], seen["descriptor"]) == (None, "pixel")
    assert seen["panels"]["copy_share*, %"] == [("one|$x_1$", 25, 10, 40), ("two", 25, 10, 40)]
    assert seen["panels"]["fid"] == [("one|$x_1$", None, None, None), ("two", 9, None, None)]
    with Image.open(out / "comparison.png") as image:
        pixels = np.asarray(image.convert("RGB")).astype(int)
    for colour in ((0, 114, 178), (230, 159, 0)):
        assert (np.abs(pixels - colour).sum(2) < 12).sum() > 500


def test_a_comparison_replaces_its_own_kind_only(pair, tmp_path):
    found, out = read(pair), tmp_path / "out"
    run_comparison.write(found, out)
    (out / "comparison.md").write_text("old")
    run_comparison.write(found, out)
    assert (out / "comparison.md").read_text() != "old"
    (out / "notes").mkdir()
    with pytest.raises(UsageError) as error:
        run_comparison.write(found, out)
    assert str(error.value) == f"--output_dir='{out}' holds 'notes', which no comparison wrote; takes a new folder"
    with pytest.raises(UsageError, match="holds 'matches.csv', which no comparison wrote"):
        run_comparison.write(found, pair[0])
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "comparison.csv").write_text("of somebody else")
    with pytest.raises(UsageError, match="holds 'comparison.csv', which no comparison wrote"):
        run_comparison.write(found, mine)
    with pytest.raises(UsageError, match="comparison.csv' is a file; takes a new folder"):
        run_comparison.write(found, mine / "comparison.csv")
    assert (mine / "comparison.csv").read_text() == "of somebody else"


def test_a_failure_keeps_what_was_there(pair, tmp_path, monkeypatch):
    found, out = read(pair), tmp_path / "out"
    run_comparison.write(found, out)
    before = {p.name: p.read_bytes() for p in out.iterdir()}

    def fail(*_arguments, **_others):
        raise OSError("disk full")

    monkeypatch.setattr(run_comparison.plots, "comparison", fail)
    with pytest.raises(OSError, match="disk full"):
        run_comparison.write(found, out)
    assert {p.name: p.read_bytes() for p in out.iterdir()} == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "runs"]
