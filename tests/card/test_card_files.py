import json
from dataclasses import replace

from tests.reports import sample_card
from utils.card import card_files
from utils.files.whole_files import read_manifest


def without_share(moment):
    numbers = replace(moment.arm.numbers, share=None)
    return replace(moment, arm=replace(moment.arm, numbers=numbers))


def test_a_card_is_four_files_of_the_same_numbers(tmp_path):
    card = sample_card.card()
    card_files.write_card(tmp_path / "card", card, sample_card.pictures(size=32))
    names = {p.name for p in (tmp_path / "card").iterdir()}
    assert names == {"card.html", "card.md", "card.json", "course.png"}
    facts = read_manifest(tmp_path / "card" / "card.json", card_files.KIND)
    assert facts["answer"] == json.loads(json.dumps(card.as_json()["answer"]))
    for name in ("card.html", "card.md"):
        assert card.answer.sentence in (tmp_path / "card" / name).read_text()
    assert "data:image/png;base64," in (tmp_path / "card" / "card.html").read_text()


def test_without_a_course_there_is_no_figure(tmp_path):
    card_files.write_card(tmp_path, sample_card.card(course=None), sample_card.pictures(size=32))
    assert {p.name for p in tmp_path.iterdir()} == {"card.html", "card.md", "card.json"}


def test_a_curve_needs_two_checkpoints(tmp_path):
    course = sample_card.course()
    one = replace(course, moments=course.moments[:1])
    assert not card_files.draw_course(tmp_path / "c.png", one)
    assert not (tmp_path / "c.png").exists()


def test_checkpoints_without_a_measure_leave_a_gap_in_its_curve(tmp_path, monkeypatch):
    course = sample_card.course()
    gap = replace(course, moments=(without_share(course.moments[0]), *course.moments[1:]))
    seen = []
    monkeypatch.setattr(card_files, "course", lambda path, curves, stop_at: seen.extend(curves))
    assert card_files.draw_course(tmp_path / "c.png", gap)
    assert [[step for step, *_ in curve.points] for curve in seen] == [
        [800, 1200, 1600],
        [400, 800, 1200, 1600],
        [400, 800, 1200, 1600],
    ]
    assert (seen[0].limit, seen[2].title) == (2.0, "distance (fd_pixel)")
