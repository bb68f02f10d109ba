import re

import pytest

from benchmarks.study import experiments, pages
from benchmarks.study.experiments import Budget
from tests.benchmarks.study.rows_by_hand import row
from tests.conftest import ROOT

COPY, OTHER = 0.97, 0.5


def test_numbers_of_an_arm_by_hand():
    table = pages.Table([
        row("a", 1, score=[COPY, COPY, OTHER, OTHER], duplicated=[1, 1, 0, 0], agreement=[1, 1, 0.5, 0.5], fd=90),
        row("a", 2, score=[COPY, OTHER, OTHER, OTHER], duplicated=[1, 1, 0, 0], agreement=[1, 1, 0.5, 0.5], fd=110),
        row("b", 1, score=[OTHER], agreement=[float("nan")]),
    ])  # fmt: skip
    mean, low, high = table.share("a")
    assert mean == pytest.approx(37.5)
    assert 0 <= low < mean < high <= 100
    assert table.share("a", duplicated=True)[0] == pytest.approx(75)
    assert table.agreement("a")[0] == pytest.approx(75)
    assert table.agreement("b") is None
    assert table.share("b", duplicated=True) is None  # no prompt of its is
    assert table.seeds("a", lambda r: r.metrics["fd"]) == (100, 90, 110)
    assert table.seeds("a", pages._dup_gap) == (0.25, 0.25, 0.25)
    assert pages._cell((37.5, 20, 50), 1) == "37.5 (20.0 to 50.0)"


def test_every_arm_of_a_finding_has_a_name_of_its_own_there():
    for number, arms in experiments.EXPERIMENTS.items():
        names = [pages.label(arm, Budget(), number) for arm in arms]
        assert len(set(names)) == len(names), names
    assert pages.label("IET 4 AGC 1.25", Budget(), 7) == "K = 4, ρ = 1.25"
    assert pages.label("dup_both at 2/5", Budget(), 4) == "448 steps"
    assert pages.label("RT 4", Budget(), 6) == "RT, 4 random words"
    assert pages.label("GNI 0.3", Budget(), 6) == "GNI, noise 0.3"
    assert pages.label("fewer steps", Budget(), 9) == "10 steps"


def test_the_page_shows_what_was_run_and_says_what_was_not(tmp_path, monkeypatch):
    (tmp_path / "reasons.md").write_text("A head.\n\n## 4 as one would think\n\nBecause **so**.\n")
    monkeypatch.setattr(pages, "read_reasons", lambda read=pages.read_reasons: read(tmp_path / "reasons.md"))
    arms = experiments.EXPERIMENTS[4]
    rows = [
        row(arm, seed, score=[COPY if i < 6 * place else OTHER for i in range(32)])
        for place, arm in enumerate(arms) for seed in (1, 2, 3)
    ]  # fmt: skip
    pages.write(tmp_path / "docs", Budget(), rows)
    text = (tmp_path / "docs" / "study.md").read_text()
    assert "smoke" not in text
    assert re.search(r"\| 4 +\| Longer training, more copying +\| \*\*holds\*\* +\| as one would think +\|", text)
    assert re.search(r"\| 1 +\| Duplicated images are copied more +\| not run +\|", text)
    section = text.split("## 4.")[1].split("## 5.")[0]
    assert re.search(r"\| 1,120 steps \| 93\.8 \(88\.5 to 97\.9\)", section)
    assert re.search(
        r"1,120 steps > 672 steps +\| \+37\.5 +\| \+\d+\.\d to \+\d+\.\d \| 36 : 0 +\| 2\.9e-11 +\| \+0\.176", section
    )
    assert "Because **so**." in section
    assert "448 steps > 224 steps (beside)" in section
    assert (tmp_path / "docs" / "images" / "study_4.png").exists()
    assert [p.name for p in (tmp_path / "docs" / "images").iterdir()] == ["study_4.png"]
    # trainings once each: three seeds of one minute; six seconds for each of 18 arms
    assert "0.1 hours of one core" in text
    assert "seeds 1, 2, 3" in text.lower()
    pages.write(tmp_path / "docs", experiments.SMOKE, rows)
    assert "**A smoke run" in (tmp_path / "docs" / "study.md").read_text()


def test_every_figure_is_drawn_from_rows_of_every_arm(tmp_path):
    x = [2.5, 1.5, 2.0, 1.0]
    rows = [
        row(arm, seed, score=[COPY, OTHER, COPY, 0.6], duplicated=[1, 0, 1, 0], entropy=x, jpeg_kib=x, total_variation=x)
        for arm in experiments.ARMS for seed in (1, 2)
    ]  # fmt: skip
    pages.write(tmp_path, Budget(), rows)
    assert len(list((tmp_path / "images").iterdir())) == 9
    assert "Not run" not in (tmp_path / "study.md").read_text()


def test_the_page_of_the_repository_is_that_of_its_rows(tmp_path):
    """docs/study.md was written from docs/study.csv as it is; nobody edits either by hand."""
    from benchmarks.study import rows

    found = rows.read_rows(ROOT / "docs" / "study.csv")
    plan = experiments.Plan("runs/study", Budget())
    assert set(found) <= {plan.key(arm, seed) for arm in experiments.ARMS for seed in experiments.SEEDS}
    pages.write(tmp_path, Budget(), list(found.values()))
    assert (tmp_path / "study.md").read_text() == (ROOT / "docs" / "study.md").read_text()
