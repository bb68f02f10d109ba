import contextlib
import dataclasses
from concurrent.futures import Future

import pytest

from benchmarks import replication_study
from benchmarks.study import experiments, rows, running
from tests.benchmarks.study.rows_by_hand import row
from tests.conftest import ROOT

TINY = dataclasses.replace(
    experiments.SMOKE,
    images=4,
    steps=5,
    rounds=5,
    batch=1,
    prompts=2,
    generated=4,
    sampling_steps=1,
    reference=8,
)


class Here:
    """An executor that runs each task at once, in this process."""

    def submit(self, function, *arguments):
        future = Future()
        try:
            future.set_result(function(*arguments))
        except RuntimeError as error:
            future.set_exception(error)
        return future


@pytest.fixture
def small(monkeypatch, micro_sd):
    """A study of two arms with the random model, in this process."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(experiments, "TINY_SD", str(micro_sd))
    monkeypatch.setattr(experiments, "SMOKE", TINY)
    monkeypatch.setattr(running, "devices", lambda: ["cpu:0"])
    monkeypatch.setattr(running, "pool", lambda names: contextlib.nullcontext(Here()))
    monkeypatch.setitem(experiments.EXPERIMENTS, 4, ("dup_both at 1/5", "dup_both"))


def test_it_makes_what_is_missing_and_only_that(small, tmp_path, capsys):
    out, docs = tmp_path / "runs", tmp_path / "docs"
    arguments = ["--smoke", "--only", "4", "--out", str(out), "--docs", str(docs)]
    replication_study.main(arguments)
    printed = capsys.readouterr().out
    assert "2 sets of images, of which 2 are missing; 1 worker processes" in printed
    assert "5/5 arm dup_both 1" in printed  # scenes, scenes of the distance, a training, two arms
    first = list(rows.read_rows(docs / "study.csv").values())
    assert [(r.arm, r.images, len(r.score)) for r in first] == [
        ("dup_both", 4, 4),
        ("dup_both at 1/5", 4, 4),
    ]
    assert {r.source.tolist()[0] for r in first} == {0}
    assert all(0 <= r.agreement.min() <= r.agreement.max() <= 1 for r in first)
    assert all(r.metrics["fd"] > 0 for r in first)
    assert "## 4." in (docs / "study.md").read_text()
    # a row suffices without its images; a lost row is computed again from existing images
    kept = (docs / "study.csv").read_text().splitlines(keepends=True)
    (docs / "study.csv").write_text("".join(kept[:2]))
    replication_study.main(arguments)
    assert "of which 1 are missing" in capsys.readouterr().out
    again = list(rows.read_rows(docs / "study.csv").values())
    assert [(r.arm, r.score.tolist()) for r in again] == [(r.arm, r.score.tolist()) for r in first]
    replication_study.main([*arguments, "--out", str(tmp_path / "empty")])
    assert "of which 0 are missing" in capsys.readouterr().out
    assert not (tmp_path / "empty").exists()


def test_a_failure_is_reported_and_the_other_tasks_run(small, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(
        experiments,
        "ARMS",
        experiments.ARMS
        | {"dup_both at 1/5": experiments.Arm("dup_both", flags=("--cfg_start", "x"))},
    )
    folders = ["--out", str(tmp_path / "runs"), "--docs", str(tmp_path / "docs")]
    arguments = ["--smoke", "--only", "4", *folders]
    with pytest.raises(
        SystemExit, match=r"(?s)study: error.*arm dup_both at 1/5 1: .*--cfg_start='x'"
    ):
        replication_study.main(arguments)
    assert "arm dup_both at 1/5 1: failed" in capsys.readouterr().out
    assert [r.arm for r in rows.read_rows(tmp_path / "docs" / "study.csv").values()] == ["dup_both"]


def test_a_spent_budget_begins_nothing(small, tmp_path, capsys):
    folders = ["--out", str(tmp_path / "r"), "--docs", str(tmp_path / "d")]
    replication_study.main(["--smoke", "--only", "4", "--budget", "0", *folders])
    assert not (tmp_path / "r").exists()
    assert "Not run." in (tmp_path / "d" / "study.md").read_text()


@pytest.mark.parametrize(
    ("flags", "error"),
    [
        (["--only", "1,12"], "argument --only: '1,12': findings are numbered 1 to 10"),
        (["--seeds", "a"], "argument --seeds: 'a' is not a list"),
        (["--workers", "0"], "argument --workers: 0 is not 1 or more"),
        (["--budget", "-1"], "argument --budget: '-1' is not a number of minutes, 0 or more"),
        (["--seeds", "-3"], "argument --seeds: '-3'"),
        (["--seeds", "1000"], "argument --seeds: '1000': 1000 draws the scenes"),
    ],
)
def test_bad_flags(flags, error, capsys):
    with pytest.raises(SystemExit) as ended:
        replication_study.main(flags)
    assert ended.value.code == 2
    assert error in capsys.readouterr().err


def test_every_command_is_printed(capsys):
    replication_study.main(["--dry_run", "--seeds", "7"])
    printed = capsys.readouterr()
    lines = printed.out.splitlines()
    arms = len(experiments.ARMS)
    assert sum("diff_train.py" in line for line in lines) == len(experiments.TRAININGS)
    assert sum("diff_retrieval.py" in line for line in lines) == 2 * arms
    assert sum("diff_inference.py" in line or "sd_mitigation.py" in line for line in lines) == arms
    assert all(
        "--seed 7" in line
        for line in lines
        if "diff_retrieval.py" not in line and "reference --count" not in line
    )
    count = len(experiments.TRAININGS)
    assert printed.err.startswith(f"missing: {count} trainings and {arms} of {arms} sets of images")


def test_what_is_missing_is_counted_with_its_minutes():
    plan = experiments.StudyPlan("out", experiments.Budget())
    arms = experiments.EXPERIMENTS[4]
    table = {plan.key(arm, 1): row(arm, 1, score=[0.5]) for arm in arms}
    assert replication_study.summary_of(plan, arms, (1,), table) == (
        "missing: 0 trainings and 0 of 6 sets of images"
    )
    # a training of 60 s and six sets of 6 s
    assert replication_study.summary_of(plan, arms, (1, 2), table) == (
        "missing: 1 trainings and 6 of 12 sets of images, about 2 minutes of one worker at the speed"
        " of the rows that exist"
    )
