import re

import pytest

from benchmarks.study import experiments, pages
from benchmarks.study.experiments import Budget
from tests.benchmarks.study.rows_by_hand import row
from tests.conftest import ROOT

COPY, OTHER = 0.97, 0.5


def test_numbers_of_an_arm_by_hand():
    table = pages.Table(
        [
            row(
                "a",
                1,
                score=[COPY, COPY, OTHER, OTHER],
                duplicated=[1, 1, 0, 0],
                agreement=[1, 1, 0.5, 0.5],
                fd=90,
            ),
            row(
                "a",
                2,
                score=[COPY, OTHER, OTHER, OTHER],
                duplicated=[1, 1, 0, 0],
                agreement=[1, 1, 0.5, 0.5],
                fd=110,
            ),
            row("b", 1, score=[OTHER], agreement=[float("nan")]),
        ]
    )
    mean, low, high = table.share("a")
    assert mean == pytest.approx(37.5)
    assert 0 <= low < mean < high <= 100
    assert table.share("a", duplicated=True)[0] == pytest.approx(75)
    assert table.agreement("a")[0] == pytest.approx(75)
    assert table.agreement("b") is None
    assert table.share("b", duplicated=True) is None  # no prompt of its is
    assert table.distance("a") == (100, 90, 110)
    assert table.seeds("a", pages._dup_gap) == (0.25, 0.25, 0.25)
    assert pages._cell((37.5, 20, 50), 1) == "37.5 (20.0 to 50.0)"
    # at place 2.85 of four sorted scores: 0.97 with seed 1, 0.5 + 0.85 x 0.47 with seed 2
    assert table.percentile("a")[0] == pytest.approx((0.97 + 0.8995) / 2)
    assert table.percentile("b") == (OTHER, OTHER, OTHER)


def test_every_arm_of_a_finding_has_a_name_of_its_own_there():
    for number, named in experiments.names(Budget()).items():
        assert tuple(named) == experiments.EXPERIMENTS[number]
        assert len(set(named.values())) == len(named), named
    assert experiments.names(Budget())[4]["dup_both at 2/5"] == "448 steps"


def test_the_page_shows_what_was_run_and_says_what_was_not(tmp_path, monkeypatch):
    (tmp_path / "reasons.md").write_text("A head.\n\n## 4 as one would think\n\nBecause **so**.\n")
    monkeypatch.setattr(
        pages, "read_reasons", lambda read=pages.read_reasons: read(tmp_path / "reasons.md")
    )
    arms = experiments.EXPERIMENTS[4]
    rows = [
        row(arm, seed, score=[COPY if i < 6 * place else OTHER for i in range(32)])
        for place, arm in enumerate(arms)
        for seed in (1, 2, 3)
    ]
    pages.write(tmp_path / "docs", Budget(), rows)
    text = (tmp_path / "docs" / "study.md").read_text()
    assert "smoke" not in text
    assert "Seeds 1, 2, 3." in text
    assert re.search(
        r"\| 4 +\| Longer training, more copying +\| \*\*holds\*\* +\| as one would think +\|", text
    )
    assert re.search(r"\| 1 +\| Duplicated images are copied more +\| not run +\|", text)
    section = text.split("## 4.")[1].split("## 5.")[0]
    assert re.search(r"\| 1,120 steps \| 93\.8 \(88\.5 to 97\.9\)", section)
    assert re.search(
        r"1,120 steps > 672 steps +\| \+37\.5 +\| \+\d+\.\d to \+\d+\.\d \| 36 : 0 +\| 2\.9e-11 +\|"
        r" \+0\.176",
        section,
    )
    assert "Because **so**." in section
    assert "448 steps > 224 steps (beside)" in section
    assert (tmp_path / "docs" / "images" / "study_4.png").exists()
    assert [p.name for p in (tmp_path / "docs" / "images").iterdir()] == ["study_4.png"]
    pages.write(tmp_path / "docs", experiments.SMOKE, rows)
    text = (tmp_path / "docs" / "study.md").read_text()
    assert "**A smoke run" in text
    assert "as one would think" not in text  # reasons are about the study's own rows
    assert "Because" not in text
    pages.write(tmp_path / "docs", Budget(), [r for r in rows if r.seed < 3])
    assert "Because" not in (tmp_path / "docs" / "study.md").read_text()


def test_hours_count_a_training_once_and_every_set_of_images():
    rows = [
        row("base", score=[OTHER]),
        row("dup_both", score=[OTHER]),
        row("dup_both at 1/5", score=[OTHER]),
        row("nodup", score=[OTHER]),
    ]
    assert pages._spent(rows) == pytest.approx((2 * 60 + 4 * 6) / 3600)


def test_a_finding_is_of_the_seeds_that_all_of_its_arms_have(tmp_path):
    rows = [row(arm, 1, score=[COPY] * 4) for arm in experiments.EXPERIMENTS[4]]
    rows += [row("dup_both", 2, score=[OTHER] * 4)]
    pages.write(tmp_path, Budget(), rows)
    text = (tmp_path / "study.md").read_text()
    assert "Seed 1 alone: the intervals say nothing of how trainings differ." in text
    assert re.search(r"\| 1,120 steps \| 100\.0 ", text)  # seed 2 has no other arm to compare with
    # what decides nothing may be missing
    pages.write(tmp_path, Budget(), [r for r in rows if r.arm != "dup_both at 2/5"])
    assert "448 steps" not in (tmp_path / "study.md").read_text()
    assert re.search(
        r"## 4\. Longer training, more copying: unclear", (tmp_path / "study.md").read_text()
    )


def test_what_is_shared_by_many_images_is_no_duplicated_images_prompt(tmp_path):
    table = pages.Table(
        [row(arm, score=[COPY, OTHER], duplicated=[1, 0]) for arm in ("nolevel", "dup_both")]
    )
    lines = pages.arms_table(table, 2, {"nolevel": "nolevel", "dup_both": "blip"}).splitlines()
    assert [line.split("|")[3].strip() for line in lines[2:]] == ["-", "100.0 (100.0 to 100.0)"]
    assert "duplicated" not in pages.arms_table(table, 3, {"dup_both": "blip"})


def test_every_figure_is_drawn_from_rows_of_every_arm(tmp_path):
    x = [2.5, 1.5, 2.0, 1.0]
    rows = [
        row(
            arm,
            seed,
            score=[COPY, OTHER, COPY, 0.6],
            duplicated=[1, 0, 1, 0],
            entropy=x,
            jpeg_kib=x,
            total_variation=x,
        )
        for arm in experiments.ARMS
        for seed in (1, 2)
    ]
    pages.write(tmp_path, Budget(), rows)
    assert len(list((tmp_path / "images").iterdir())) == 10
    assert "Not run" not in (tmp_path / "study.md").read_text()


def test_the_page_of_the_repository_is_that_of_its_rows(tmp_path):
    """docs/study.md was written from docs/study.csv as it is; nobody edits either by hand."""
    from benchmarks.study import rows

    table = rows.read_rows(ROOT / "docs" / "study.csv")
    plan = experiments.StudyPlan("runs/study", Budget())
    assert set(table) <= {
        plan.key(arm, seed) for arm in experiments.ARMS for seed in experiments.SEEDS
    }
    pages.write(tmp_path, Budget(), list(table.values()))
    assert (tmp_path / "study.md").read_text() == (ROOT / "docs" / "study.md").read_text()
