"""The files of a memorization card: card.json, card.html, card.md and the figure of its course."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from utils.card.card_record import Card, Course, Numbers, Pictures
from utils.files.whole_files import write_manifest
from utils.reports.card_markdown import write_card_markdown
from utils.reports.card_page import CardPictures, write_card_page
from utils.reports.course_plot import Curve, Point, course

KIND = "memorization card"  # of the manifest
LEAST_MOMENTS = 2  # checkpoints that make a curve


def write_card(folder: Path, card: Card, pictures: Pictures) -> None:
    """Write the card into a folder, which is made when it is missing.

    pictures: {name: JPEG}, all of `card.picture_names()`."""
    figure = folder / "course.png"
    drawn = card.course is not None and draw_course(figure, card.course)
    facts = card.as_json()
    write_manifest(folder / "card.json", KIND, **facts)
    shown = CardPictures(pictures, figure.read_bytes() if drawn else None)
    write_card_page(folder / "card.html", facts, shown)
    write_card_markdown(folder / "card.md", facts)


def draw_course(path: Path, shown: Course) -> bool:
    """Draw copy share, similarity and distance over training, as PNG. Returns: whether there was
    anything to draw; one checkpoint alone makes no curve."""
    names = (moment.arm.numbers.distance_name for moment in shown.moments)
    distance = next(filter(None, names), "")
    curves = [
        Curve("copies, %", _points(shown, _copies), limit=100 * shown.max_copy_share),
        Curve("similarity, 95th percentile", _points(shown, lambda n: _alone(n.sim_95pc))),
        Curve(f"distance ({distance})", _points(shown, lambda n: _alone(n.distance))),
    ]
    curves = [curve for curve in curves if len(curve.points) >= LEAST_MOMENTS]
    if curves:
        course(path, curves, stop_at=shown.stop_at)
    return bool(curves)


Measure = tuple[float, float | None, float | None]  # value, low end of the interval, high end


def _copies(numbers: Numbers) -> Measure | None:
    share = numbers.share
    return None if share is None else (100 * share.value, 100 * share.lo, 100 * share.hi)


def _alone(value: float | None) -> Measure | None:
    return None if value is None else (value, None, None)


def _points(shown: Course, measure: Callable[[Numbers], Measure | None]) -> list[Point]:
    """The points of a curve; checkpoints at which it was not measured have none."""
    measured = [(moment.step, measure(moment.arm.numbers)) for moment in shown.moments]
    return [(step, *values) for step, values in measured if values is not None]
