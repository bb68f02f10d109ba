import math

import numpy as np
import pytest

from tests.retrieval.evaluations_by_hand import evaluation, read
from utils.retrieval import compare_evaluations
from utils.retrieval.formulas import bootstrap
from utils.runtime.errors import DataError, UsageError


@pytest.fixture
def pair(tmp_path):
    return [
        evaluation(tmp_path / "runs" / name / "evaluations" / "pixel-1")
        for name in ("none", "noise")
    ]


def test_the_table_by_hand(tmp_path):
    one = evaluation(
        tmp_path / "one", clip=[0.2, 0.3, 0.2, 0.3], metrics={"fid": 12.3456, "bg_95pc": 0.8}
    )
    two = evaluation(
        tmp_path / "two",
        scores=(0.4, 0.4, 0.4, 0.4),
        metrics={"kid_mean": 0.01, "mq_05": 3, "mq_rate_05": 0.75},
    )
    found = read([one, two])
    assert found.metrics == [
        "copy_share",
        "sim_mean",
        "sim_95pc",
        "bg_95pc",
        "clipscore",
        "fid",
        "fd_lite0",
        "kid_mean",
        "mq_rate_05",
    ]
    head, _, first, second = [
        [c.strip() for c in line.split("|")[1:-1]] for line in found.table().split("\n")
    ]
    assert head == ["run", "images", *found.metrics]
    # prompts of 0.9, 0.5 and of 0.7, 0.3: either may be drawn twice, then the means are 0.7 and
    # 0.5, the percentiles 0.9 and 0.7
    assert first == [
        "one",
        "4",
        "0.25 [0.1, 0.4]",
        "0.6 [0.5, 0.7]",
        "0.87 [0.7, 0.9]",
        "0.8",
        "0.25 [0.25, 0.25]",
        "12.35",
        "210.9",
        "–",
        "–",
    ]
    assert second[3:5] == ["0.4 [0.4, 0.4]", "0.4 [0.4, 0.4]"]
    assert second[-2:] == ["0.01", "0.75"]
    assert found.notes == []


def test_intervals_resample_prompts_of_best_matches_from_the_seed(tmp_path):
    rng = np.random.default_rng(0)
    scores, clip = rng.random(60).round(3).tolist(), rng.random(60).round(3).tolist()
    dirs = [evaluation(tmp_path / name, scores=scores, clip=clip) for name in "ab"]
    metrics = read(dirs, seed=7).evaluations[0].metrics
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
    assert read(dirs, seed=8).evaluations[0].metrics["sim_mean_lo"] != metrics["sim_mean_lo"]


def test_one_prompt_has_no_interval_and_images_without_prompts_stand_for_themselves(tmp_path):
    one = evaluation(tmp_path / "one", scores=(0.2, 0.4))
    two = evaluation(tmp_path / "two", scores=(0.2, 0.4))
    text = (two / "matches.csv").read_text()
    (two / "matches.csv").write_text(text.replace('"prompt, 0"', ""))
    found = read([one, two])
    assert "sim_mean_lo" not in found.evaluations[0].metrics
    assert found.evaluations[1].metrics["sim_mean_lo"] == pytest.approx(0.2)
    assert found.evaluations[1].metrics["sim_mean_hi"] == pytest.approx(0.4)


def test_intervals_that_an_evaluation_has_are_kept(tmp_path):
    dirs = [
        evaluation(tmp_path / n, metrics={"sim_mean_lo": 0.11, "sim_mean_hi": 0.99}) for n in "ab"
    ]
    assert read(dirs).evaluations[0].metrics["sim_mean_lo"] == 0.11


def test_a_generation_folder_stands_for_its_only_evaluation(pair, tmp_path):
    given = [p.parent.parent for p in pair]
    found = read(given)
    assert [r.folder for r in found.evaluations] == pair
    assert [r.label for r in found.evaluations] == ["none", "noise"]
    (given[0] / "evaluations" / ".pixel-1.12.part").mkdir()
    (given[0] / "evaluations" / ".pixel-1.12.part" / "metrics.json").write_text("")
    assert read(given).evaluations[0].folder == pair[0]
    evaluation(given[0] / "evaluations" / "sscd-2")
    with pytest.raises(UsageError) as error:
        read(given)
    assert (
        str(error.value) == f"--compare_runs='{given[0]}' holds 2 evaluations; give one of them:"
        " evaluations/{pixel-1, sscd-2}"
    )
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError) as error:
        read([tmp_path / "empty", pair[0]])
    assert (
        str(error.value)
        == f"--compare_runs='{tmp_path / 'empty'}' holds no evaluation; give a folder that"
        " diff_retrieval.py wrote"
    )


def test_two_different_folders_are_needed(pair, tmp_path):
    with pytest.raises(
        UsageError, match="^--compare_runs compares evaluations; give 2 folders or more, not 1$"
    ):
        read(pair[:1])
    with pytest.raises(
        UsageError, match="'.*none/evaluations/pixel-1' are the same evaluation; give each once$"
    ):
        read([*pair, pair[0].parent.parent])
    with pytest.raises(
        UsageError, match="--compare_runs='.*absent' does not exist; give an existing folder"
    ):
        read([pair[0], tmp_path / "absent"])


@pytest.mark.parametrize(
    ("paths", "expected"),
    [
        (["/r/images/none/evaluations/e", "/r/images/noise/evaluations/e"], ["none", "noise"]),
        (["/r/A/gen/evaluations/e", "/r/B/gen/evaluations/e"], ["A", "B"]),
        (
            ["/r/A/gen/evaluations/e", "/r/B/gen/evaluations/e", "/r/A/mit/evaluations/e"],
            ["A/gen", "B/gen", "A/mit"],
        ),
        (["/A/x/gen1", "/B/x/gen2"], ["A/gen1", "B/gen2"]),
        (["/r/gen/evaluations/sscd-1", "/r/gen/evaluations/pixel-1"], ["sscd-1", "pixel-1"]),
        (["/r/a/e", "/r/a/b/e"], ["a", "a/b"]),
        (["/r/none", "/r/x/y/noise"], ["none", "x/y/noise"]),
    ],
)
def test_labels_are_the_parts_of_paths_that_differ(paths, expected):
    assert compare_evaluations.labels([compare_evaluations.Path(p) for p in paths]) == expected


@pytest.mark.parametrize(
    ("settings", "line", "marked"),
    [
        (
            {"pt_style": "sscd", "arch": "resnet50"},
            "pt_style is 'pixel' in 'one' and 'sscd' in 'two'",
            {"copy_share", "sim_mean", "sim_95pc", "sim_std"},
        ),
        (
            {"preset": "dcr"},
            "preset is None in 'one' and 'dcr' in 'two'",
            {"copy_share", "sim_mean", "sim_95pc", "sim_std"},
        ),
        (
            {"weights_sha256": "0123456789abcdef"},
            "weights_sha256 is None in 'one' and 0123456789ab in 'two'",
            {"copy_share", "sim_mean", "sim_95pc", "sim_std"},
        ),
        (
            {"imsize": 224},
            "imsize is None in 'one' and 224 in 'two'",
            {"copy_share", "sim_mean", "sim_95pc", "sim_std"},
        ),
        (
            {"copy_threshold": 0.5},
            "copy_threshold is 0.95 in 'one' and 0.5 in 'two'",
            {"copy_share"},
        ),
        (
            {"dtype": "torch.float16"},
            "dtype is 'torch.float32' in 'one' and 'torch.float16' in 'two'",
            {"copy_share", "sim_mean", "sim_95pc", "sim_std", "fd_lite0", "fid", "clipscore"},
        ),
        (
            {"fd": {"arch": "lite0", "weights_sha256": "f" * 64}},
            "fd.weights_sha256 is 579357935793 in 'one' and ffffffffffff in 'two'",
            {"fd_lite0"},
        ),
        (
            {"fid": {"protocol": "dcr"}},
            "fid.protocol is 'ours' in 'one' and 'dcr' in 'two'",
            {"fid"},
        ),
        ({"clip": {"model": "L"}}, "clip.model is 'B' in 'one' and 'L' in 'two'", {"clipscore"}),
        ({"mq_flip": True}, "mq.mq_flip is False in 'one' and True in 'two'", {"mq_rate_05"}),
    ],
)
def test_numbers_that_were_not_measured_alike_are_refused_and_with_force_marked(
    tmp_path, settings, line, marked
):
    both = {
        "fid": {"protocol": "ours"},
        "clip": {"model": "B"},
        "mq": {"mq_size": 64},
        "mq_flip": False,
    }
    more = {"fid": 3.0, "clipscore": 0.2, "mq_rate_05": 0.1}
    one = evaluation(tmp_path / "one", clip=[0.2] * 4, metrics=more, settings=both)
    two = evaluation(tmp_path / "two", clip=[0.2] * 4, metrics=more, settings=both | settings)
    with pytest.raises(UsageError) as error:
        read([one, two])
    assert (
        str(error.value)
        == f"--compare_runs: {line}; give evaluations with equal settings, or --force to compare"
        " them anyway"
    )
    found = read([one, two], force=True)
    assert set(found.marked) == marked
    assert len(found.notes) == len(settings)
    assert found.notes[0].startswith(f"measured differently: {line.split(' is ')[0]}: ")
    head = found.table().split("\n")[0]
    assert {
        c.strip().rstrip("*") for c in head.split("|") if c.strip().endswith("*")
    } == marked & set(found.metrics)


def test_all_runs_of_a_value_are_named_and_a_metric_that_one_lacks_is_not_compared(tmp_path):
    thresholds = {"a": 0.9, "b": 0.5, "c": 0.9}
    dirs = [
        evaluation(
            tmp_path / n, settings={"copy_threshold": t, "fd": None if n == "a" else {"arch": "x"}}
        )
        for n, t in thresholds.items()
    ]
    found = read(dirs, force=True)
    assert found.notes == [
        "measured differently: copy_threshold: 0.9 (a, c), 0.5 (b); its metrics are marked with *",
    ]


def test_kernel_distance_and_coverage_of_two_networks_are_not_alike(tmp_path):
    # the one had Inception's weights, the other had not and took those of its fd
    more = {"kid_mean": 0.01, "recall": 0.5}
    one = evaluation(
        tmp_path / "one", metrics=more | {"fid": 9.0}, settings={"fid": {"weights": "inception"}}
    )
    two = evaluation(tmp_path / "two", metrics=more)
    with pytest.raises(UsageError, match="kid.weights is 'inception' in 'one' and None in 'two'"):
        read([one, two])
    assert read([one, two], force=True).marked == {"kid_mean", "recall"}
    without = evaluation(tmp_path / "without")
    assert read([one, without]).marked == frozenset()


def test_other_training_images_and_numbers_of_images_are_noted_not_refused(tmp_path):
    one = evaluation(tmp_path / "one")
    two = evaluation(
        tmp_path / "two",
        scores=(0.1, 0.2),
        settings={"val_fingerprint": "bbbbbbbb22", "query_dir": "x", "seed": 9},
    )
    found = read([one, two])
    assert found.marked == frozenset()
    assert found.notes == [
        "training images differ: aaaaaaaa11 (one), bbbbbbbb22 (two)",
        (
            "numbers of images differ: 4 (one), 2 (two); a Frechet distance of fewer images comes"
            " out larger"
        ),
    ]


def test_beside_a_run_with_duplication_one_without_is_named(tmp_path):
    one = evaluation(tmp_path / "one")
    two = evaluation(tmp_path / "two", settings={"counterfactual": True})
    assert read([one, two]).notes == [
        "copy_share_dup is of images that the seed would have duplicated, and none was, of: two"
    ]
    assert read([one, evaluation(tmp_path / "three")]).notes == []


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("metrics.json", "{", "metrics.json: is not JSON"),
        (
            "metrics.json",
            "[1]",
            "metrics.json: holds 'list'; a manifest of kind 'evaluation' is needed",
        ),
        (
            "metrics.json",
            '{"kind": "evaluation", "version": 2}',
            "metrics.json: version 2; this toolkit reads versions 1 to 1",
        ),
        ("metrics.json", '{"kind": "evaluation", "version": 1}', "metrics.json: has no 'settings'"),
        ("matches.csv", None, "matches.csv: cannot be read (No such file or directory)"),
        ("matches.csv", "", "matches.csv: has no column 'query'"),
        ("matches.csv", "query,rank,score\n", "matches.csv: has no column 'prompt'"),
        (
            "matches.csv",
            "query,rank,score,prompt\n0,2,0.5,p\n",
            "matches.csv: holds no match of rank 1",
        ),
        (
            "matches.csv",
            "query,rank,score,prompt\n0,1,x,p\n",
            "matches.csv: column 'score': could not convert string",
        ),
        (
            "matches.csv",
            "query,rank,score,prompt\n0,1,nan,p\n",
            "matches.csv: column 'score' holds a number that is not finite",
        ),
        (
            "matches.csv",
            "query,rank,score,prompt\n0,1,,p\n",
            "matches.csv: column 'score' is empty",
        ),
        (
            "matches.csv",
            "query,rank,score,prompt\n0,1,0.5," + "p" * 200_000,
            "matches.csv: is not CSV (field larger",
        ),
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
    assert not {"fid", "recall", "precision", "density", "version"} & set(
        found.evaluations[0].metrics
    )
