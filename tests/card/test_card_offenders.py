import pyarrow as pa
import pyarrow.parquet as pq

from tests.card.judged_by_hand import image
from utils.card.card_offenders import (
    KnownPictures,
    copies_by_picture,
    offenders_of,
    read_draws,
    read_groups,
)
from utils.card.card_record import Training

KNOWN = KnownPictures(
    captions={"a.png": "a caption"},
    duplicated=frozenset({"a.png"}),
    near_duplicates={"a.png": ("a2.png",)},
    draws={"a.png": (10, 3)},
    sources={"data/a.png": "a.png", "data/b.png": "b.png"},
)


def test_the_picture_with_most_copies_comes_first_with_what_is_known_of_it():
    images = [
        image("1", "p", picture="b.png", score=0.99, source="data/b.png"),
        image("2", "p", picture="a.png", score=0.8, source="data/a.png"),
        image("3", "q", picture="a.png", score=0.9, source="data/b.png"),
        image("4", "q", picture="a.png", score=0.1, copy=False, source="data/a.png"),
        image("5", "q", picture=None, score=None, copy=False),
    ]
    assert list(copies_by_picture(images)) == ["a.png", "b.png"]
    first, second = offenders_of(images, KNOWN, "training")
    assert (first.key, first.copies, first.images, first.best) == ("a.png", 2, 2, 0.9)
    assert [each.image for each in first.returned] == ["3", "2"]
    assert first.returned[0].picture == "training/3"
    assert first.caption == "a caption"
    assert first.training == Training(True, ("a2.png",), 10, 3)
    assert second.training == Training(False, (), None, None)


def test_what_is_not_known_is_none():
    unknown = KnownPictures({}, None, None, {}, {})
    (offender,) = offenders_of([image("1", "p")], unknown, "training")
    assert offender.training == Training(None, None, None, None)
    assert offender.images == 0


def test_draws_and_groups_are_read_from_the_files_of_other_stages(tmp_path):
    (tmp_path / "skips.csv").write_text("image,drawn,skipped\na.png,5,1\n")
    assert read_draws(tmp_path / "skips.csv") == {"a.png": (5, 1)}
    assert read_draws(tmp_path / "none.csv") == {}
    table = pa.table({"group": [0, 0, 1, 1, 0], "key": ["a", "b", "c", "d", "e"]})
    pq.write_table(table, tmp_path / "groups.parquet")
    groups = read_groups(tmp_path)
    assert groups["a"] == ("b", "e")
    assert groups["d"] == ("c",)
