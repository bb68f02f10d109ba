import pytest

from tests.card.judged_by_hand import image
from utils.card import card_findings
from utils.card.card_record import Arm, Moment, Numbers, Share, Trial
from utils.card.card_verdicts import CopyRule

HIGH, MIDDLE, LOW = (
    Share(0.5, 0.4, 0.6, 256),
    Share(0.3, 0.2, 0.45, 256),
    Share(0.1, 0.05, 0.2, 256),
)


def arm(name, share, **numbers):
    values = dict.fromkeys(("sim_mean", "sim_95pc", "distance", "distance_name", "clipscore"))
    return Arm(name, name, 256, 64, Numbers(share, **(values | numbers)), (), None, ())


def trial(name, share, **numbers):
    return Trial((f"--{name}",), "somewhere", arm(name, share, **numbers))


def test_the_answer_names_the_interval_and_what_innocents_score():
    metrics = {
        "threshold": 0.8,
        "threshold_lo": 0.75,
        "threshold_hi": 0.85,
        "innocents_n": 64,
        "innocents_calibrated_rate": 0.01,
        "false_positive_rate": 0.3,
        "settings": {"innocents_from": "holdout", "false_positives": 0.01},
    }
    threshold = card_findings.threshold_of(metrics, CopyRule(0.8, "aligned"), None)
    assert threshold.source == "at most 1 % of 64 pictures that training held out exceed it"
    assert card_findings.answer_sentence(Share(0.12, 0.08, 0.17, 256), threshold) == (
        "12 % (8 to 17) of 256 images made from training captions are copies; of 64 pictures"
        " that training held out, which nobody copied, up to 5 % would count."
    )
    enough = card_findings.threshold_of(
        metrics | {"innocents_n": 200}, CopyRule(0.8, "aligned"), None
    )
    assert card_findings.answer_sentence(Share(0.12, 0.08, 0.17, 256), enough).endswith(
        "of 200 pictures that training held out, which nobody copied, 1 % would count."
    )


def test_the_answer_by_a_fixed_threshold_and_without_one():
    rule = CopyRule(0.5, "sscd")
    fixed = card_findings.threshold_of({"settings": {}}, rule, None)
    assert card_findings.answer_sentence(LOW, fixed).endswith("of 0.5, fixed for sscd.")
    given = card_findings.threshold_of({"settings": {}}, rule, 0.5)
    assert card_findings.answer_sentence(LOW, given).endswith("given with --copy_threshold.")
    assert card_findings.threshold_of({"settings": {}}, CopyRule(None, "dino"), None) is None
    assert "not decided" in card_findings.answer_sentence(None, None)


def test_mostly_images_that_show_nothing_are_the_answer():
    found = {"images": 30, "of": 40, "void": True}
    sentence = card_findings.void_sentence({"settings": {"show_nothing": found}})
    assert sentence.startswith("This verdict is void: 30 of 40 images made from training captions")
    few = {"images": 3, "of": 40, "void": False}
    assert card_findings.void_sentence({"settings": {"show_nothing": few}}) is None
    assert card_findings.void_sentence({"settings": {}}) is None


def test_a_comparison_says_whether_training_and_caption_matter():
    arms = [
        arm("training", HIGH),
        arm("base", LOW),
        arm("heldout", Share(0.45, 0.3, 0.55, 256)),
        arm("words", LOW),
    ]
    base, heldout, words = card_findings.comparison_of(arms).findings
    assert base.endswith(
        "10 % (5 to 20) copies on the same prompts and noise: the fine-tuning brought the copies."
    )
    assert heldout.endswith("pictures come back without their captions as well.")
    assert words.endswith("the exact caption brings the picture back.")
    unsure = arm("words", Share(0.0, 0.0, 0.5, 8))
    (few,) = card_findings.comparison_of([arm("training", HIGH), unsure]).findings
    assert "0 % (0 to 50) are copies: too few images to tell" in few
    assert card_findings.comparison_of([arm("training", None), arm("base", LOW)]).findings == ()


@pytest.mark.parametrize(
    ("shares", "stop_at"),
    [((0.01, 0.5, 0.6), 100), ((0.3, 0.01, 0.6), 200), ((0.5, 0.5, 0.5), None), ((0, 0, 0), 300)],
)
def test_the_last_checkpoint_below_the_limit_is_named(shares, stop_at):
    moments = [
        Moment(100 * (i + 1), i == 2, arm("c", Share(share, share, share, 10)))
        for i, share in enumerate(shares)
    ]
    course = card_findings.course_of(moments, 0.02)
    assert course.stop_at == stop_at
    assert (str(stop_at) if stop_at else "No checkpoint") in course.finding


def test_the_cheapest_mitigation_that_surely_helps_is_chosen():
    none = trial("none", HIGH, clipscore=0.3, distance=100.0)
    unsure = trial("unsure", MIDDLE, clipscore=0.3, distance=100.0)
    dear = trial("dear", Share(0.0, 0.0, 0.05, 256), clipscore=0.2, distance=100.0)
    good = trial("good", LOW, clipscore=0.29, distance=110.0)
    best = card_findings.best_trial([none, unsure, dear, good])
    assert best is good
    finding = card_findings.help_finding([none, good], good, 32)
    assert finding == (
        "Use --good: on the 32 worst prompts 10 % (5 to 20) instead of 50 % (40 to 60) are copies;"
        " it costs: agreement with the caption 0.3 to 0.29, distance 100 to 110."
    )
    assert card_findings.best_trial([none, dear]) is dear
    assert "much worse" in card_findings.help_finding([none, dear], dear, 1)
    assert card_findings.best_trial([none, unsure]) is None
    assert "No mitigation" in card_findings.help_finding([none, unsure], None, 32)


def test_a_detector_is_judged_by_pairs():
    images = [
        image("1", "p", copy=True, detections={"magnitude": 3.0}),
        image("2", "p", copy=True, detections={"magnitude": 1.0}),
        image("3", "p", copy=False, detections={"magnitude": 1.0}),
        image("4", "p", copy=False, detections={"magnitude": 0.5}),
    ]
    # by hand: 3 > 1, 3 > 0.5, 1 = 1, 1 > 0.5
    assert card_findings.higher([3.0, 1.0], [1.0, 0.5]) == 3.5 / 4
    assert "88 % of the pairs" in card_findings.seen_by_detectors(images)["magnitude"]
    assert card_findings.seen_by_detectors(images[:2]) == {}
