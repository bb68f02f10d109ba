import numpy as np
import pytest

from benchmarks.study import experiments, findings
from benchmarks.study.findings import (
    FAILS,
    HOLDS,
    UNCLEAR,
    AtEqualDistance,
    Claim,
    Correlation,
    Finding,
    NoWorse,
)
from tests.benchmarks.study.rows_by_hand import row

COPY, OTHER = 0.97, 0.5


def rows_of(shares, seeds=(1, 2, 3), prompts=32):
    """Rows of arms of which a share of the prompts is copied, the first ones."""
    return [
        row(arm, seed, score=[COPY if i < share * prompts else OTHER for i in range(prompts)])
        for arm, share in shares.items()
        for seed in seeds
    ]


def test_every_claim_is_about_arms_that_its_experiment_makes():
    assert set(findings.FINDINGS) == set(experiments.EXPERIMENTS)
    for number, finding in findings.FINDINGS.items():
        named = {arm for claim in finding.claims for arm in findings.arms_of(claim)}
        assert named <= set(experiments.EXPERIMENTS[number])
        assert any(claim.decides for claim in finding.claims)


def test_an_effect_is_the_mean_over_prompts_and_seeds_of_the_difference_of_shares():
    one = row("a", score=[COPY, COPY, COPY, OTHER], source=[0, 0, 1, 1])  # shares 1 and 1/2
    # 1/2 and 0; prompt 2 is not in a
    other = row("b", score=[COPY, OTHER, OTHER, OTHER, COPY], source=[0, 0, 1, 1, 2])
    assert findings.paired([one], [other], findings.copied).tolist() == [0.5, 0.5]
    (result,) = findings.hold(Finding("", (Claim(("a",), ("b",)),)), [one, other])
    assert (result.effect, result.low, result.high, result.plus, result.minus) == (
        0.5,
        0.5,
        0.5,
        2,
        0,
    )
    assert result.p == 0.5  # two of two: 2 * 1/4
    assert result.word == UNCLEAR
    assert result.score == pytest.approx(0.5 * (0.47 / 2 + 0.47 / 2))


def test_duplicated_prompts_alone():
    one = row("a", score=[COPY, COPY], duplicated=[1, 0])
    other = row("b", score=[OTHER, COPY], duplicated=[1, 0])
    assert findings.paired([one], [other], findings.copied, duplicated=True).tolist() == [1.0]


def test_several_arms_stand_for_their_mean():
    arms = [row("a", score=[COPY]), row("b", score=[OTHER])]
    assert findings.paired(arms, [row("c", score=[OTHER])], findings.copied).tolist() == [0.5]


@pytest.mark.parametrize(
    ("more", "less", "either", "word"),
    [
        (0.5, 0.1, False, HOLDS),
        (0.1, 0.5, False, FAILS),
        (0.1, 0.5, True, HOLDS),
        (0.5, 0.5, False, UNCLEAR),
        (0.5, 0.47, True, UNCLEAR),
        (0.0, 0.0, False, UNCLEAR),
    ],
)
def test_the_word_of_a_claim(more, less, either, word):
    finding = Finding("", (Claim(("a",), ("b",), either=either),))
    results = findings.hold(finding, rows_of({"a": more, "b": less}))
    assert [r.word for r in results] == [word]
    assert findings.verdict(finding, results) == word


def test_an_interval_or_a_sign_test_alone_decides_nothing():
    assert findings.word_of(0.1, 0.2, 0.2) == findings.word_of(-0.1, 0.2, 0.001) == UNCLEAR
    assert findings.word_of(np.nan, np.nan, 0.001) == UNCLEAR


def test_the_interval_widens_with_what_seeds_disagree_on():
    alike = [np.array([0.0, 1.0] * 16)] * 3
    apart = [np.zeros(32), np.array([0.0, 1.0] * 16), np.ones(32)]
    narrow, wide = findings.interval(alike, findings.mean), findings.interval(apart, findings.mean)
    # a mean of 96 coins
    assert narrow[1] - narrow[0] == pytest.approx(2 * 1.96 * 0.5 / np.sqrt(96), rel=0.1)
    assert wide[1] - wide[0] > 2 * (narrow[1] - narrow[0])
    assert np.isnan(findings.interval([np.array([np.nan])], findings.mean)).all()


def test_signs_leave_out_ties():
    assert findings.sign_test(np.array([1, 1, 1, 1, 1, -1, 0, 0])) == (5, 1, 0.21875)  # 2 * 7 / 64
    assert findings.sign_test(np.zeros(3)) == (0, 0, 1.0)


def test_a_correlation_is_positive_where_simple_images_are_copied():
    x = np.arange(32.0)
    simple = [row("nodup", s, score=0.9 - x / 100, entropy=x) for s in (1, 2, 3)]
    finding = Finding("", (Correlation("nodup", "entropy"),))
    (result,) = findings.hold(finding, simple)
    assert (result.effect, result.plus, result.minus, result.word) == (
        pytest.approx(1),
        48,
        0,
        HOLDS,
    )
    (result,) = findings.hold(
        finding, [row("nodup", s, score=0.5 + x / 100, entropy=x) for s in (1, 2, 3)]
    )
    assert (result.effect, result.word) == (pytest.approx(-1), FAILS)
    assert findings.pearson(np.array([[0, 0], [1, 2], [2, 1]])) == pytest.approx(0.5)
    assert findings.halves(np.array([[3, 0.1], [1, 0.9], [2, 0.5]])).tolist() == [
        pytest.approx(0.8)
    ]  # the middle is in none


def test_no_worse_by_seeds():
    def held(*fds):
        rows = [row("a", s, score=[OTHER], fd=fd) for s, fd in enumerate(fds)]
        rows += [row("b", s, score=[OTHER], fd=100.0) for s in range(3)]
        (result,) = findings.hold(Finding("", (NoWorse("a", "b"),)), rows)
        return result.word

    assert held(90, 100, 104.9) == HOLDS
    assert held(90, 100, 106) == UNCLEAR
    assert held(106, 107, 108) == FAILS


def test_copying_is_compared_where_both_are_as_far_from_other_scenes():
    def arms(name, seed, *points):
        """Rows of a training: (distance, copies of four images) at each of its checkpoints."""
        return [
            row(f"{name}{i}", seed, score=[COPY] * n + [OTHER] * (4 - n), fd=fd)
            for i, (fd, n) in enumerate(points)
        ]

    def held(less, *, other=None, seeds=(1, 2, 3)):
        rows = [each for seed in seeds for each in arms("full", seed, (200, 2), (240, 0))]
        for seed in seeds:
            rows += arms("low", seed, *(other if other and seed == 2 else less))
        claim = AtEqualDistance(("full0", "full1"), ("low0", "low1"))
        (result,) = findings.hold(Finding("", (claim,)), rows)
        return result

    # full weights copy 1/4 at 220; at 190 they never are, and that checkpoint is left out
    result = held([(190, 4), (220, 0)])
    assert (result.effect, result.low, result.high, result.word) == (0.25, 0.25, 0.25, HOLDS)
    assert held([(220, 2), (210, 2)]).word == FAILS  # 1/4 and 3/8 against a half
    assert held([(220, 0), (210, 0)], other=[(220, 4), (210, 4)]).word == UNCLEAR
    assert held([(190, 0), (195, 0)]).word == UNCLEAR  # no distance in common
    assert held([(220, 0)] * 2, seeds=(1, 2)).word == UNCLEAR  # too few seeds
    partly = held([(220, 0)] * 2, other=[(190, 0)] * 2)  # the others say what they say
    assert (partly.effect, partly.low, partly.high, partly.word) == (0.25, 0.25, 0.25, UNCLEAR)


def test_a_finding_holds_if_all_that_decides_holds_and_fails_if_one_fails():
    claims = (Claim(("a",), ("b",)), Claim(("b",), ("c",)), Claim(("c",), ("a",), decides=False))

    def word(**shares):
        return findings.verdict(
            Finding("", claims), findings.hold(Finding("", claims), rows_of(shares))
        )

    assert word(a=0.9, b=0.5, c=0.1) == HOLDS
    assert word(a=0.9, b=0.5, c=0.5) == UNCLEAR
    assert word(a=0.9, b=0.5, c=0.8) == FAILS
    assert word(a=0.9, b=0.5) == UNCLEAR  # what was not run decides nothing
