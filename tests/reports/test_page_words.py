from tests.reports.test_page import METRICS, SETTINGS
from utils.reports import page_words


def test_without_a_threshold_the_headline_is_the_percentile():
    assert (
        page_words.headline({"sim_95pc": 0.5}, SETTINGS)
        == "The 95th percentile of similarity is 0.500."
    )
    assert page_words.headline({}, SETTINGS) == ""


def test_a_headline_stands_without_settings():
    assert page_words.headline(METRICS, {}).endswith(
        "of a training image (95 % interval 10.0 to 40.0 %)."
    )


def test_tiles_hold_what_was_measured_and_nothing_else():
    assert page_words.tiles({"sim_mean": 0.5}) == []
    interval = {
        f"copy_share_dup_{end}": value for end, value in (("lo", 0.3), ("hi", 0.5), ("n", 9))
    }
    found = page_words.tiles(
        METRICS
        | interval
        | {
            "copy_share_dup": 0.4,
            "copy_share_nodup_n": 0,
            "bg_95pc": 0.7,
            "fd_net": 12.345,
        }
    )
    assert found == [
        ("Copies", [("25.0 %", "95 % interval 10.0 to 40.0 %, 128 images")], True),
        (
            "Copies by the prompt's own image",
            [("40.0 %", "where it was duplicated (30.0 to 50.0 %)")],
            False,
        ),
        (
            "Similarity, 95th percentile",
            [("0.988", "generated images"), ("0.700", "training images among themselves")],
            False,
        ),
        ("Frechet distance", [("12.35", "fd_net")], False),
    ]


def test_no_copies_are_no_alarm():
    assert page_words.tiles(METRICS)[0][2] is True
    assert page_words.tiles(METRICS | {"copy_share": 0.0})[0][2] is False
