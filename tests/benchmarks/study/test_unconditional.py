"""The experiment of unconditional models: commands, claims, page, and a run of two arms."""

import contextlib
import dataclasses
import json

import pytest

from benchmarks import unconditional_study
from benchmarks.study import findings, running, unconditional, unconditional_page
from benchmarks.study.unconditional_rows import METRICS, Row, read_rows
from tests.benchmarks.test_replication_study import Here
from tests.conftest import ROOT

TINY = dataclasses.replace(unconditional.SMOKE, steps=20, generated=2, reference=6)


def row(arm, seed, *, mq, fd=100.0, skipped=None):
    metrics = dict.fromkeys(METRICS, 0.25) | {unconditional_page.DECIDES: mq, "fd": fd}
    plan = unconditional.Plan("out", unconditional.Budget())
    return Row(
        key=plan.key(arm, seed),
        arm=arm,
        seed=seed,
        training_seconds=100.0,
        seconds=10.0,
        date="2026-11-30",
        machine="a machine, 2 cores",
        metrics=metrics,
        skipped=skipped,
    )


def test_all_trainings_see_as_many_samples():
    plan = unconditional.Plan("out", unconditional.Budget())
    for name, training in unconditional.TRAININGS.items():
        words = plan.training_command(name, 1)[1]
        given = dict(zip(words, words[1:], strict=False))
        rounds = given.get("--total_round", 1)
        assert given["--max_train_steps"] * rounds * training.copies == 5500, name
        assert int(given.get("--clients_num", 1)) == training.copies
    plus = plan.training_command("both+", 1)[1]
    assert {"--agc_reshard", "--agc_augment", "--mem_ratio"} <= set(plus)
    assert not {"--agc_reshard", "--mem_ratio"} & set(plan.training_command("IET", 1)[1])


def test_the_network_is_as_small_as_the_page_says():
    import torch
    from diffusers import UNet2DModel

    config = json.loads((ROOT / unconditional.NETWORK).read_text())
    with torch.device("meta"):
        network = UNet2DModel.from_config(config)
    assert sum(p.numel() for p in network.parameters()) == 2_489_267


def test_keys_depend_on_every_option_and_not_on_the_folder():
    budget = unconditional.Budget()
    plan, other = (unconditional.Plan(out, budget) for out in ("a", "b"))
    keys = {(arm, seed): plan.key(arm, seed) for arm in unconditional.ARMS for seed in (1, 2)}
    assert len(set(keys.values())) == len(keys)
    assert all(other.key(*name) == key for name, key in keys.items())
    longer = unconditional.Plan("a", dataclasses.replace(budget, steps=4000))
    assert not set(keys.values()) & {longer.key(*name) for name in keys}


def results_of(rows):
    return {
        unconditional_page._in_words(r.claim): (round(r.effect, 6), r.word)
        for r in unconditional_page.hold(rows)
    }


def test_claims_by_hand():
    """IET lowers it with every seed, AGC raises it with every seed, both with one of three."""
    rows = []
    for seed in (1, 2, 3):
        rows += [row("plain", seed, mq=0.5), row("IET", seed, mq=0.2, fd=102 + 2 * seed)]
        rows += [row("AGC", seed, mq=0.6, fd=90), row("both", seed, mq=0.7 - 0.1 * seed, fd=120)]
    found = results_of(rows)
    assert found["plain > IET"] == (0.3, "holds")
    assert found["plain > AGC"] == (-0.1, "fails")
    assert found["plain > both"] == (0.0, "unclear")
    # 104, 106 and 108 beside 100: at most 5 % above with one seed alone
    assert found["Fréchet distance: IET no worse than plain"][1] == "unclear"
    assert found["Fréchet distance: both no worse than plain"][1] == "fails"
    assert "both > both+" not in found
    verdict = findings.verdict(unconditional_page.FINDING, unconditional_page.hold(rows))
    assert verdict == "fails"
    two = results_of([each for each in rows if each.seed < 3])
    assert two["plain > IET"] == (0.3, "unclear")
    assert two["Fréchet distance: both no worse than plain"][1] == "unclear"


def test_an_arm_is_held_against_the_checkpoint_of_its_distance():
    """Checkpoints at distances 140, 130, 120, 110 with shares 0 to 0.3, the last at 100 with 0.4:
    at 125 the plain training has 0.15."""
    rows = [
        row(arm, seed, mq=0.1 * place, fd=140 - 10 * place)
        for seed in (1, 2, 3)
        for place, arm in enumerate(unconditional.PLAIN)
    ]
    rows += [row("IET", seed, mq=0.05, fd=125) for seed in (1, 2, 3)]
    rows += [row("AGC", seed, mq=0.05, fd=90) for seed in (1, 2, 3)]
    found = results_of(rows)
    assert found["plain > IET at equal Fréchet distance"] == (0.1, "holds")
    assert found["plain > AGC at equal Fréchet distance"][1] == "unclear"  # no such checkpoint


def test_the_page_has_every_arm_that_was_run(tmp_path):
    rows = [row(arm, 1, mq=0.1, skipped=0.125) for arm in ("plain", "AGC")]
    unconditional_page.write(tmp_path, unconditional.Budget(), rows)
    text = (tmp_path / "study_unconditional.md").read_text()
    assert "| plain, 5,500 steps | 10.0" in text
    assert "| 12.5 " in text
    assert "both+ |" not in text
    assert "Seed 1;" in text
    assert ": unclear" in text
    assert (tmp_path / "images" / "study_unconditional.png").is_file()
    unconditional_page.write(tmp_path, unconditional.Budget(), [])
    assert "Not run." in (tmp_path / "study_unconditional.md").read_text()


def test_it_makes_what_is_missing_and_only_that(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(unconditional, "SMOKE", TINY)
    monkeypatch.setattr(running, "devices", lambda: ["cpu:0"])
    monkeypatch.setattr(running, "pool", lambda names: contextlib.nullcontext(Here()))
    arms = {name: unconditional.ARMS[name] for name in ("plain at 1/5", "both+")}
    monkeypatch.setattr(unconditional, "ARMS", arms)
    given = ["--smoke", "--out", str(tmp_path / "runs"), "--docs", str(tmp_path / "docs")]
    unconditional_study.main(given)
    assert "2 sets of images, of which 2 are missing" in capsys.readouterr().out
    found = {
        each.arm: each for each in read_rows(tmp_path / "docs" / "study_unconditional.csv").values()
    }
    assert set(found) == set(arms)
    assert found["plain at 1/5"].skipped is None
    assert 0 <= found["both+"].skipped <= 1
    assert all(each.metrics["fd"] > 0 for each in found.values())
    assert "A smoke run" in (tmp_path / "docs" / "study_unconditional.md").read_text()
    unconditional_study.main(given)
    assert "of which 0 are missing" in capsys.readouterr().out


def test_every_command_is_printed(capsys):
    unconditional_study.main(["--dry_run", "--seeds", "7"])
    lines = capsys.readouterr().out.splitlines()
    assert sum("diff_train.py" in line for line in lines) == len(unconditional.TRAININGS)
    assert sum("diff_inference.py" in line for line in lines) == len(unconditional.ARMS)
    with pytest.raises(SystemExit):
        unconditional_study.main(["--seeds", "1000"])
