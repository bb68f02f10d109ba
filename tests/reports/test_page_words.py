from tests.reports.test_page import METRICS, SETTINGS
from utils.reports import page_words


def headline(metrics, settings):
    """All sentences that head the page."""
    return " ".join(filter(None, page_words.headline_parts(metrics, settings)))


def test_without_a_threshold_the_headline_is_the_percentile():
    assert headline({"sim_95pc": 0.5}, SETTINGS) == "The 95th percentile of similarity is 0.500."
    assert headline({}, SETTINGS) == ""


def test_a_headline_stands_without_settings():
    assert headline(METRICS, {}).endswith("of a training image (95 % interval 10.0 to 40.0 %).")


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


def test_of_a_run_without_duplication_the_counterfactual_is_named():
    shares = {
        f"copy_share_{name}{end}": 0.25 for name in ("dup", "nodup") for end in ("", "_lo", "_hi")
    }
    found = page_words.tiles(METRICS | shares, SETTINGS | {page_words.COUNTERFACTUAL: True})
    assert found[1] == (
        "Copies by the prompt's own image",
        [
            ("25.0 %", "of images that the seed would have duplicated (25.0 to 25.0 %)"),
            ("25.0 %", "of the others; the run duplicated none (25.0 to 25.0 %)"),
        ],
        False,
    )


def test_no_copies_are_no_alarm():
    assert page_words.tiles(METRICS)[0][2] is True
    assert page_words.tiles(METRICS | {"copy_share": 0.0})[0][2] is False


# With a calibrated threshold ----------------------------------------------------------------------

CALIBRATED = METRICS | {
    "copy_share_calibrated": 0.12,
    "copy_share_calibrated_lo": 0.08,
    "copy_share_calibrated_hi": 0.17,
    "copy_share_calibrated_n": 256,
    "threshold": 0.6123,
    "threshold_lo": 0.58,
    "threshold_hi": 0.64,
    "innocents_n": 150,
    "false_positive_rate": 0.02,
    "innocents_calibrated_rate": 0.0067,
}
OF_ALIGNED = SETTINGS | {
    "threshold_of": "aligned",
    "innocents_from": "holdout",
    "false_positives": 0.01,
    "fixed_threshold_void": False,
}
CALIBRATED_SENTENCE = (
    "12.0 % of 256 images count as copies of a training image (95 % interval 8.0 to 17.0 %):"
    " aligned with one, they agree above 0.612."
)
FIXED_SENTENCE = (
    "By the fixed threshold, pixel similarity above 0.95, it would be 25.0 % (10.0 to 40.0 %)."
)


def test_the_calibrated_share_leads_then_its_origin_then_the_fixed_one():
    assert headline(CALIBRATED, OF_ALIGNED) == (
        f"{CALIBRATED_SENTENCE} The threshold is calibrated, so that it counts at most 1 % of 150"
        f" pictures that nobody copied: those that training set aside. {FIXED_SENTENCE}"
    )


def test_a_void_fixed_threshold_is_said_before_all_else():
    void = {"false_positive_rate": 0.492, "innocents_n": 59}
    lead, further = page_words.headline_parts(
        CALIBRATED | void, OF_ALIGNED | {"fixed_threshold_void": True}
    )
    assert lead == (
        "The fixed threshold, pixel similarity above 0.95, is void here: 49.2 % of 59 pictures that"
        f" nobody copied are above it. {CALIBRATED_SENTENCE}"
    )
    assert further.endswith(FIXED_SENTENCE)


def test_few_innocents_cannot_tell_small_rates_by_the_rule_of_three():
    def words(count):
        return headline(CALIBRATED | {"innocents_n": count}, OF_ALIGNED)

    assert "So few cannot tell a rate below 5.0 % from none." in words(60)
    assert "So few cannot tell a rate below 3.0 % from none." in words(99)
    assert "So few" not in words(100)


def test_without_alignment_the_calibrated_threshold_is_the_descriptors():
    of_pixel = OF_ALIGNED | {"threshold_of": "pixel", "innocents_from": "training"}
    words = headline(CALIBRATED | {"threshold": 0.982}, of_pixel)
    assert "(95 % interval 8.0 to 17.0 %): their pixel similarity is above 0.982." in words
    assert "each compared with the others but its near-duplicates" in words


def test_without_a_fixed_threshold_only_the_calibrated_one_is_named():
    none = {k: v for k, v in CALIBRATED.items() if not k.startswith("copy_share_")} | {
        k: v for k, v in CALIBRATED.items() if k.startswith("copy_share_calibrated")
    }
    del none["copy_share"]
    none["false_positive_rate"] = None
    settings = OF_ALIGNED | {"copy_threshold": None}
    assert "fixed" not in headline(none, settings)
    assert dict(t[:2] for t in page_words.tiles(none, settings)) == {
        "Copies": [
            (
                "12.0 %",
                "aligned above 0.612 (0.580 to 0.640); 95 % interval 8.0 to 17.0 %, 256 images",
            )
        ],
        "Pictures that nobody copied": [("0.7 %", "of 150 are above the calibrated threshold")],
        "Similarity, 95th percentile": [("0.988", "generated images")],
    }


def test_tiles_of_both_thresholds_of_parts_and_of_innocents():
    parts = {
        "part_copied_share": 0.03,
        "part_copied_share_lo": 0.0,
        "part_copied_share_hi": 0.06,
        "part_copied_share_n": 256,
    }
    found = page_words.tiles(CALIBRATED | parts, OF_ALIGNED | {"fixed_threshold_void": True})
    assert found[:3] == [
        (
            "Copies",
            [
                (
                    "12.0 %",
                    "aligned above 0.612 (0.580 to 0.640); 95 % interval 8.0 to 17.0 %, 256 images",
                ),
                (
                    "25.0 %",
                    "by the fixed threshold (void); 95 % interval 10.0 to 40.0 %, 128 images",
                ),
            ],
            True,
        ),
        ("Part copied", [("3.0 %", "hold a part of a training image (0.0 to 6.0 %)")], False),
        (
            "Pictures that nobody copied",
            [
                ("0.7 %", "of 150 are above the calibrated threshold"),
                ("2.0 %", "of 150 are above the fixed one"),
            ],
            False,
        ),
    ]
    none = page_words.tiles(CALIBRATED | {"copy_share_calibrated": 0.0}, OF_ALIGNED)
    assert none[0][2] is False  # the threshold that decides finds no copies
    assert none[0][1][1][1].startswith("by the fixed threshold; ")


def test_an_unknown_source_of_innocents_is_named_as_it_is():
    assert "copied: elsewhere." in headline(
        CALIBRATED, OF_ALIGNED | {"innocents_from": "elsewhere"}
    )
