import numpy as np
import pytest
import torch

from utils.evaluation import metrics
from utils.evaluation import similarity as sim


def measured(**changes):
    """Four generations of two prompts against three training images; image 0 is duplicated."""
    fields = {
        "scores": np.array([[0.99, 0.2], [0.97, 0.1], [0.4, 0.3], [0.96, 0.5]]),
        "matches": np.array([[0, 1], [0, 2], [1, 2], [0, 2]]),
        "train": torch.eye(3), "similarity": sim.top_matches, "prompts": ["a", "b", "b", "a"],
        "sources": np.array([0, 1, 1, 0]), "source_scores": np.array([0.99, 0.1, 0.4, 0.5]),
        "duplicated": np.array([True, False, False]), "threshold": 0.95, "seed": 0,
    }  # fmt: skip
    return metrics.Measured(**(fields | changes))


def test_similarity_by_hand():
    row = metrics.similarity(measured())
    assert row["sim_mean"] == pytest.approx((0.99 + 0.97 + 0.4 + 0.96) / 4)
    assert row["sim_gt_05pc"] == 0.75
    assert (row["copy_share"], row["copy_share_n"]) == (0.75, 4)
    # two prompts of shares 1 (a) and 1/2 (b): every resampling has 1/2, 3/4 or 1
    assert (row["copy_share_lo"], row["copy_share_hi"]) == (0.5, 1.0)


def test_without_a_threshold_no_share_is_given():
    assert "copy_share" not in metrics.similarity(measured(threshold=None))
    assert metrics.similarity(measured(threshold=None))["sim_gt_05pc"] == 0.75


def test_duplication_by_match_and_by_source():
    row = metrics.duplication(measured())
    assert row["sim_dup"] == pytest.approx((0.99 + 0.97 + 0.96) / 3)  # matched image 0
    assert row["sim_nodup"] == pytest.approx(0.4)
    # prompt a, whose image is duplicated: generations 0 and 3; generation 1 matched it too, but its prompt is b
    assert (row["copy_share_dup"], row["copy_share_dup_n"]) == (1.0, 2)
    assert (row["copy_share_nodup"], row["copy_share_nodup_n"]) == (0.5, 2)
    assert row["source_matched"] == 0.75  # all but generation 1
    assert row["source_score_mean"] == pytest.approx((0.99 + 0.1 + 0.4 + 0.5) / 4)


def test_images_without_a_source_do_not_count_by_source():
    row = metrics.duplication(measured(sources=np.array([0, -1, -1, 1])))  # of which one is duplicated
    assert (row["copy_share_dup_n"], row["copy_share_nodup_n"]) == (1, 1)
    assert "copy_share_dup" not in metrics.duplication(measured(sources=np.full(4, -1)))


def test_background_leaves_an_image_itself_out():
    train = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]])
    row = metrics.background(measured(train=train))
    assert row["bg_mean"] == pytest.approx((0.6 + 0.8 + 0.8) / 3)


def test_what_cannot_be_measured_says_why():
    for metric, changes, why in (
        (metrics.duplication, {"duplicated": None}, "--run"),
        (metrics.background, {"train": torch.eye(1)}, "only 1"),
        (metrics.fd, {}, "not computed"),
        (metrics.fd, {"missing": {"fd": "no weights"}}, "no weights"),
        (metrics.fd, {"fd": (torch.eye(4), torch.eye(4)[:1])}, "2 images a side; there are 4 and 1"),
    ):
        with pytest.raises(metrics.CannotMeasureError, match=why):
            metric(measured(**changes))


def test_frechet_distance_is_named_by_its_network():
    same = torch.randn(6, 3)
    row = metrics.fd(measured(fd=(same, same + 2), fd_key="fd_net"))
    assert row == {"fd_net": pytest.approx(12.0, rel=1e-5)}
