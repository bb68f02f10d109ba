import functools

import numpy as np
import pytest
import torch

from tests.retrieval import measured_by_hand
from utils.retrieval import metric_record, metrics
from utils.retrieval.formulas.complexity import Complexity


def measured(**changes):
    """Four generations of two prompts against three training images; image 0 is duplicated."""
    fields = {
        "scores": np.array([[0.99, 0.2], [0.97, 0.1], [0.4, 0.3], [0.96, 0.5]]),
        "matches": np.array([[0, 1], [0, 2], [1, 2], [0, 2]]),
        "find_background": lambda: np.array([0.6, 0.8, 0.8]),
        "prompts": ["a", "b", "b", "a"],
        "sources": np.array([0, 1, 1, 0]),
        "source_scores": np.array([0.99, 0.1, 0.4, 0.5]),
        "duplicated": np.array([True, False, False]),
        "threshold": 0.95,
    }
    return measured_by_hand.measured(**(fields | changes))


def test_similarity_by_hand():
    row = metrics.similarity(measured())
    assert row["sim_mean"] == pytest.approx((0.99 + 0.97 + 0.4 + 0.96) / 4)
    assert row["sim_gt_05pc"] == 0.75
    assert (row["copy_share"], row["copy_share_n"]) == (0.75, 4)
    assert row["source_matched"] == 0.75  # all but generation 1
    assert row["source_score_mean"] == pytest.approx((0.99 + 0.1 + 0.4 + 0.5) / 4)
    assert "source_matched" not in metrics.similarity(measured(sources=np.full(4, -1)))
    # two prompts of shares 1 (a) and 1/2 (b): every resampling has 1/2, 3/4 or 1
    assert (row["copy_share_lo"], row["copy_share_hi"]) == (0.5, 1.0)


def test_without_a_threshold_no_share_is_given():
    assert "copy_share" not in metrics.similarity(measured(threshold=None))
    assert metrics.similarity(measured(threshold=None))["sim_gt_05pc"] == 0.75


def test_duplication_by_match_and_by_source():
    row = metrics.duplication(measured())
    assert row["sim_dup"] == pytest.approx((0.99 + 0.97 + 0.96) / 3)  # matched image 0
    assert row["sim_nodup"] == pytest.approx(0.4)
    # prompt a, whose image is duplicated: generations 0 and 3; generation 1 matched it too, but its
    # prompt is b
    assert (row["copy_share_dup"], row["copy_share_dup_n"]) == (1.0, 2)
    assert (row["copy_share_nodup"], row["copy_share_nodup_n"]) == (0.5, 2)


def test_images_without_a_source_do_not_count_by_source():
    # of which one is duplicated
    row = metrics.duplication(measured(sources=np.array([0, -1, -1, 1])))
    assert (row["copy_share_dup_n"], row["copy_share_nodup_n"]) == (1, 1)
    assert "copy_share_dup" not in metrics.duplication(measured(sources=np.full(4, -1)))


def test_background_is_found_once_and_summed_up():
    calls = []
    found = measured(find_background=lambda: calls.append(1) or np.array([0.6, 0.8, 0.8]))
    assert metrics.background(found)["bg_mean"] == pytest.approx(2.2 / 3)
    assert found.background is found.background
    assert calls == [1]


def test_complexity_correlates_that_of_the_match_with_the_similarity():
    best = measured().matches.best
    found = measured(find_complexity=lambda: Complexity(1 - best, 2 * best, np.ones(4)))
    row = metrics.complexity(found)
    assert (row["cc_ent"], row["cc_comp"]) == pytest.approx((-1, 1))
    assert "cc_tvl" not in row  # constant: Pearson's r is not defined
    assert row["pval_comp"] < 1e-6
    assert set(row) == {f"{a}_{b}" for a in ("cc", "pval") for b in ("ent", "comp", "mixed")}


def test_correlations_that_are_not_defined_are_left_out():
    found = measured(find_complexity=lambda: Complexity(*np.ones((3, 4))))
    assert not found.has_complexity
    assert metrics.complexity(found) == {}
    assert found.has_complexity


def test_frechet_distances_are_named_by_their_network():
    same = torch.randn(6, 3)
    row = metrics.fd(measured(features={"fd": (same, same + 2)}, fd_extractor="net"))
    assert row == {"fd_net": pytest.approx(12.0, rel=1e-5), "fd_net_n": 6}
    row = metrics.fid(measured(features={"fid": (same[:4], same + 1), "fid_dcr": (same, same + 2)}))
    assert row["fid_dcr"] == pytest.approx(12.0, rel=1e-5)
    assert (row["fid_n"], row["fid_reference_n"]) == (4, 6)


def test_kernel_distance_and_coverage_prefer_inceptions_features():
    x, generator = torch.randn(9, 3), torch.Generator().manual_seed(0)
    other = torch.randn(9, 3, generator=generator)
    both = measured(features={"fid": (x, x), "fd": (x, other + 9)})
    assert metrics.coverage(both)["precision"] == 1
    assert metrics.kid(both)["kid_mean"] < 0.2
    alone = measured(features={"fd": (x, other + 9)})
    assert [metrics.network_of("kid", m) for m in (both, alone, measured())] == ["fid", "fd", None]
    assert metrics.coverage(alone)["precision"] == 0
    assert metrics.kid(alone)["kid_mean"] > 1


def test_alignment_leaves_out_images_without_a_prompt():
    row = metrics.clip(
        measured(
            alignment={
                "clipscore": np.array([0.2, np.nan, 0.4, np.nan]),
                "clipscore_bg": np.full(3, np.nan),
            }
        )
    )
    assert row == {"clipscore": pytest.approx(0.3), "clipscore_n": 2}


def test_memorized_quantity_of_a_copy_among_strangers():
    generator = torch.Generator().manual_seed(0)
    training = torch.rand(60, 12, generator=generator)
    generated = torch.cat([training[7:8] + 0.01, torch.rand(1, 12, generator=generator)])
    row = metrics.mq(measured(features={"mq": (generated, training)}, prompts=["a", "b"]))
    assert (row["mq_015"], row["mq_rate_015"], row["nl2_share"]) == (1, 0.5, 0.5)
    # both, one or none of the two images: every resampling has 0, 1/2 or 1
    assert (row["mq_rate_015_lo"], row["mq_rate_015_hi"]) == (0, 1)
    assert (row["nl2_share_lo"], row["nl2_share_hi"]) == (0, 1)


def test_beside_a_memorized_quantity_stands_that_of_innocents():
    """By hand: both generations are copies, one of four innocents is."""
    generator = torch.Generator().manual_seed(0)
    training, others = (torch.rand(n, 12, generator=generator) for n in (60, 3))
    pair = {"mq": (training[:2] + 0.01, training)}
    innocents = torch.cat([training[9:10] + 0.01, others + torch.arange(3.0)[:, None] + 5])
    seen = functools.partial(measured, features=pair, prompts=["a", "b"])
    row = metrics.mq(seen(innocents={"mq": innocents}))
    assert (row["nl2_share"], row["nl2_innocents_share"]) == (1, 0.25)
    assert (row["mq_rate_015"], row["mq_innocents_rate_015"]) == (1, 0.25)
    assert row["mq_innocents_n"] == 4
    keys = list(row)
    assert keys[keys.index("mq_rate_05") + 1] == "mq_innocents_rate_05"
    without = metrics.mq(seen())
    assert without == {key: value for key, value in row.items() if "innocents" not in key}
    assert metrics.mq(seen(innocents={"mq": innocents[:0]})) == without


def test_mirrored_images_count_when_asked():
    generator = torch.Generator().manual_seed(0)
    training = torch.rand(60, 192, generator=generator)
    mirrored = training[7].view(3, 8, 8).flip(2).reshape(1, 192)
    seen = functools.partial(measured, features={"mq": (mirrored, training)}, prompts=["a"])
    without, beside = metrics.mq(seen()), metrics.mq(seen(mq_flip=True))
    assert (without["mq_015"], without["nl2_share"]) == (0, 0)
    assert (beside["mq_015"], beside["nl2_share"]) == (1, 1)
    # the published numbers stand beside those with mirrored images
    assert beside == {**beside, **{k.replace("_", "_unflipped_", 1): without[k] for k in without}}
    assert len(beside) == 2 * len(without)


@pytest.mark.parametrize(
    ("metric", "changes", "why"),
    [
        (metrics.duplication, {"duplicated": None}, "--run"),
        (metrics.fd, {}, "not computed"),
        (metrics.fd, {"missing": {"fd": "no weights"}}, "no weights"),
        (metrics.fid, {"missing": {"fid": "no Inception"}}, "no Inception"),
        (metrics.clip, {}, "no image has a prompt"),
    ],
)
def test_what_cannot_be_measured_says_why(metric, changes, why):
    with pytest.raises(metrics.CannotMeasureError, match=why):
        metric(measured(**changes))


@pytest.mark.parametrize(
    ("name", "counts", "fewer"),
    [
        ("similarity", (1, 1), (0, 1)),
        ("background", (1, 2), (1, 1)),
        ("fid", (2, 2), (1, 9)),
        ("fd", (2, 2), (4, 1)),
        ("prdc", (6, 6), (5, 5)),
        ("mq", (1, 50), (2, 49)),
    ],
)
def test_every_metric_needs_so_many_images(name, counts, fewer):
    metrics.METRICS[name].require_images(*counts)
    words = "^needs {} generated and {} training images; there are {} and {}$".format(
        *counts, *fewer
    )
    with pytest.raises(metrics.CannotMeasureError, match=words):
        metrics.METRICS[name].require_images(*fewer)


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("sim_dup", "confounded by selection"),
        ("copy_share_dup_lo", "low end of the 95 % interval of copy_share_dup"),
        ("copy_share_n", "number of images behind copy_share"),
        ("fid_dcr", "published scale"),
        ("clipscore_bg_dcr", "clipscore_bg with the published crop"),
        ("fd_tf_efficientnet_lite0", "this network's features"),
        ("mq_015", "number of generations"),
        ("mq_rate_09", "below 0.9"),
        ("mq_rate_025", "below 0.25"),
        ("mq_rate_02_hi", "high end of the 95 % interval of mq_rate_02"),
        ("mq_unflipped_rate_02", "(ratio below 0.2); a smear may have one as well, so it is no"),
        ("nl2_unflipped_share_lo", "low end of the 95 % interval of nl2_unflipped_share"),
        ("pval_mixed", "p value of cc_mixed"),
        ("kid_std", "standard deviation"),
    ],
)
def test_every_key_is_explained(key, words):
    assert words in metric_record.words_of(key, metrics.all_words())


def test_a_key_that_is_not_known_has_no_words():
    assert [
        metric_record.words_of(k, metrics.all_words())
        for k in ("weights", "other_n", "other_thing_lo")
    ] == [""] * 3
