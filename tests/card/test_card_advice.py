import dataclasses
import json

import pytest

from tests.card.judged_by_hand import image
from tests.card.test_card_findings import arm
from utils.card.card_advice import AdviceFacts, advice_of, pictures_to_leave_out, weights_of
from utils.card.card_findings import course_of
from utils.card.card_offenders import KnownPictures
from utils.card.card_record import Help, Moment, Share

KNOWN = KnownPictures(
    captions={},
    duplicated=frozenset({"many.png"}),
    near_duplicates={"near.png": ("twin.png",), "twin.png": ("near.png",)},
    draws={},
    sources={name: name for name in ("many.png", "near.png", "alone.png", "rare.png")},
)


def images_of(name, copies, of):
    return [
        image(f"{name}-{i}", name, picture=name, copy=i < copies, source=name) for i in range(of)
    ]


IMAGES = [
    *images_of("many.png", 4, 4),
    *images_of("near.png", 3, 4),
    *images_of("alone.png", 2, 4),
    *images_of("rare.png", 1, 4),
]


def facts(**changed):
    return AdviceFacts(
        **{
            "images": IMAGES,
            "known": KNOWN,
            "course": None,
            "help": None,
            "retrain": lambda flags: f"train {sorted(flags.items())}",
            "checkpoint": lambda step: f"generate {step}",
            "seed": 0,
        }
        | changed
    )


def test_a_picture_is_left_out_if_half_of_its_own_images_are_copies_without_another_reason():
    assert pictures_to_leave_out(IMAGES, KNOWN) == ["alone.png"]
    # copies made from other captions do not count
    foreign = [image(str(i), "p", picture="alone.png", source="rare.png") for i in range(4)]
    assert pictures_to_leave_out(foreign, KNOWN) == []
    # nor do copies of another picture
    own = image("5", "p", picture="alone.png", source="alone.png")
    others = [image(str(i), "p", picture="rare.png", source="alone.png") for i in range(3)]
    assert pictures_to_leave_out([own, *others], KNOWN) == []


def test_the_weights_draw_a_group_as_often_as_one_picture(tmp_path):
    expected = {"near.png": 0.5, "twin.png": 0.5, "alone.png": 0.0}
    assert weights_of(KNOWN, ["alone.png"]) == expected
    thin, leave = advice_of(facts(known=dataclasses.replace(KNOWN, duplicated=None)), tmp_path)[:2]
    assert json.loads((tmp_path / "weights.json").read_text()) == expected | {"many.png": 0.0}
    assert (thin.file, thin.keys) == ("weights.json", ("near.png",))
    assert "1 of the 4 pictures" in thin.reason
    assert f"('weights_file', '{tmp_path / 'weights.json'}')" in thin.command
    assert "('duplication', 'nodup')" in leave.command


def test_without_a_measured_reason_there_is_no_advice_and_no_file(tmp_path):
    clean = [dataclasses.replace(each, copy=False) for each in IMAGES]
    assert advice_of(facts(images=clean), tmp_path) == ()
    assert list(tmp_path.iterdir()) == []


def test_pictures_that_are_drawn_more_often_are_named_if_they_surely_copy_more(tmp_path):
    many = [each for i in range(8) for each in images_of(f"m{i}", 4, 4)]
    others = [each for i in range(8) for each in images_of(f"o{i}", 0, 4)]
    names = {each.source: each.source for each in many + others}
    known = dataclasses.replace(
        KNOWN, duplicated=frozenset(f"m{i}" for i in range(8)), sources=names
    )
    (advice,) = advice_of(facts(images=many + others, known=known), tmp_path)
    assert advice.what == "Draw every picture equally often."
    assert advice.reason.startswith("100 % (")
    assert advice.command == "train [('duplication', 'nodup')]"


def test_an_earlier_checkpoint_and_a_mitigation_are_advised_with_their_commands(tmp_path):
    low, high = Share(0.0, 0.0, 0.1, 64), Share(0.5, 0.4, 0.6, 64)
    course = course_of([Moment(5, False, arm("c", low)), Moment(9, True, arm("t", high))], 0.02)
    help = Help(4, (), "Use --noise.", "python diff_inference.py --noise")
    clean = [dataclasses.replace(each, copy=False) for each in IMAGES]
    stop, mitigate = advice_of(facts(images=clean, course=course, help=help), tmp_path)
    assert (stop.what[:15], stop.command) == ("Stop at step 5,", "generate 5")
    assert (mitigate.reason, mitigate.command) == (help.finding, help.command)


@pytest.mark.parametrize("steps", [(5, 9)])
def test_a_last_checkpoint_that_is_good_needs_no_advice(steps, tmp_path):
    low = Share(0.0, 0.0, 0.1, 64)
    moments = [Moment(step, step == 9, arm("c", low)) for step in steps]
    clean = [dataclasses.replace(each, copy=False) for each in IMAGES]
    assert advice_of(facts(images=clean, course=course_of(moments, 0.02)), tmp_path) == ()
