import base64
import json
import re

import pytest
from PIL import Image

from utils.reports import page, page_parts

ATTACK = "</script><script>alert(1)</script>&\u2028\u2029"
SETTINGS = {
    "query_dir": "<script>alert(1)</script>",
    "val_dir": "b",
    "pt_style": "pixel",
    "copy_threshold": 0.95,
    "environment": {"torch": "2.11", "gpus": ["a", "<b>"]},
    "preset": None,
}
METRICS = {
    "sim_95pc": 0.98765,
    "copy_share": 0.25,
    "copy_share_lo": 0.1,
    "copy_share_hi": 0.4,
    "copy_share_n": 128,
}
ROW = {
    "query": "q.png",
    "match": "m.png",
    "score": 0.99,
    "prompt": ATTACK,
    "caption": None,
    "source_image": "m.png",
    "source_score": float("nan"),
    "seed": 1,
    "duplicated": None,
    "clipscore": None,
    "query_picture": "q",
    "match_picture": "m",
}
PICTURES = {"q": b"\xff\xd8 generated \xff\xd9", "m": b"\xff\xd8 training \xff\xd9"}


@pytest.fixture
def write(tmp_path):
    """Write a report with what a call changes; returns its text."""
    image = tmp_path / "i.png"
    Image.new("RGB", (4, 4)).save(image)
    path = tmp_path / "report.html"

    def write(**changed):
        given = {
            "metrics": METRICS,
            "words": {},
            "settings": SETTINGS,
            "counts": {"generated": 128},
            "left_out": {},
            "plots": [(image, "histogram"), (image, "scatter")],
            "pages": [b"page one", b"page two"],
        }
        table = {"rows": [ROW] * 3, "pictures": PICTURES, "total": 3}
        table |= {name: changed.pop(name) for name in table if name in changed}
        report = page.Report(**given | changed, table=page.MatchTable(**table))
        page.write_report(path, report)
        return path.read_text(encoding="utf-8", errors="surrogateescape")

    return write


def table_data(report):
    return json.loads(
        re.search(r'<script type="application/json" id="data">(.*?)</script>', report, re.DOTALL)[1]
    )


def test_the_page_needs_nothing_outside_itself(write):
    report = write()
    assert report.count("data:image/png;base64,") == 2
    assert report.count('<img src="data:image/jpeg;base64,') == 2
    assert not re.findall(r'\b(?:src|href)\s*=\s*"(?!data:|#)', report)
    assert not re.findall(r"url\(|@import|\bfetch\(|XMLHttpRequest|https?:", report)
    assert "default-src 'none'" in report


def test_only_the_scripts_of_the_page_may_run(write):
    report = write()
    script = re.search(r"<script>(.*?)</script>", report, re.DOTALL)[1]
    assert f"script-src 'sha256-{page_parts.sha256(script)}'" in report
    assert "'unsafe-inline'" not in report
    assert len(re.findall("<script", report)) == 2
    assert "innerHTML" not in script


def test_text_of_users_is_escaped(write):
    report = write(left_out={"clip": "<i>why</i>"}, counts={"<u>": 1}, metrics={"<b>": 0.5})
    assert "<script>alert" not in report
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in report
    for tag in ("<i>", "<u>", "<b>"):
        assert tag not in report
        assert tag.replace("<", "&lt;").replace(">", "&gt;") in report


def test_prompts_enter_the_script_element_without_markup(write):
    report = write()
    assert table_data(report)["rows"][0]["prompt"] == ATTACK
    between = report.split('id="data">')[1].split("</script>")[0]
    assert not set("<>&\u2028\u2029") & set(between)
    assert page.script_json(ATTACK + "\udc80").isascii()


def test_a_name_that_is_not_utf8_is_written(write):
    report = write(rows=[ROW | {"query": "\udcff.png"}], settings=SETTINGS | {"val_dir": "\udcff"})
    assert "against \udcff" in report
    assert "\\udcff.png" in report


def test_each_picture_is_embedded_once_however_many_rows_show_it(write):
    report = write()
    assert len(table_data(report)["rows"]) == 3
    for data in PICTURES.values():
        assert report.count(base64.b64encode(data).decode()) == 1


def test_the_threshold_and_the_missing_values_reach_the_table(write):
    data = table_data(write())
    assert data["threshold"] == 0.95
    assert data["rows"][0]["source_score"] is None  # NaN is not JSON
    assert "A marked score" in write()
    report = write(settings={})
    assert table_data(report)["threshold"] is None
    assert "A marked score" not in report


def test_what_was_left_out_is_named_with_its_reason(write):
    report = write(left_out={"clip": "no weights"})
    assert re.search(r"<h2>Skipped</h2>.*clip.*no weights", report)
    assert "Skipped" not in write()


def test_rows_that_are_not_all_queries_are_said_to_be_so(write):
    assert "All 3 generated images" in write()
    assert "The 3 most similar of 10,000 generated images" in write(total=10_000)


def test_a_section_without_content_is_left_out(write):
    report = write(rows=[], pages=[], plots=[], metrics={})
    assert re.findall("<h2>(.*?)</h2>", report) == ["Counts", "Settings"]
    assert "<dialog" not in report


def test_sections_are_in_the_order_of_reading_and_can_be_jumped_to(write):
    report = write(left_out={"clip": "no weights"})
    titles = [
        "Similarity",
        "Matches",
        "Gallery",
        "Plots",
        "Numbers",
        "Skipped",
        "Counts",
        "Settings",
    ]
    assert re.findall("<section.*?<h2>(.*?)</h2>", report) == titles
    assert re.findall('href="#(.*?)"', report) == re.findall('<section id="(.*?)"', report)
    names = re.findall(r'\bid="(.*?)"', report)
    assert len(set(names)) == len(names)
    assert 'alt="histogram"' in report.split("Plots</h2>")[0]


def test_numbers_can_be_read(write):
    report = write()
    assert (
        "25.0 % of 128 images count as copies of a training image (95 % interval 10.0 to 40.0 %)"
        in report
    )
    assert "0.9877" in report
    assert page_parts.number(128) == "128"
    assert page_parts.number(True) == "True"


def test_settings_within_settings_are_rows_of_their_own():
    assert dict(page_parts.flat(SETTINGS))["environment.torch"] == "2.11"
    assert dict(page_parts.flat(SETTINGS))["environment.gpus"] == '["a", "<b>"]'
    assert "preset" not in dict(page_parts.flat(SETTINGS))


def test_no_copies_are_no_alarm(write):
    assert 'class="tile accent"' in write()
    assert 'class="tile accent"' not in write(metrics=METRICS | {"copy_share": 0.0})


# With a second look -------------------------------------------------------------------------------

ALIGNED_ROW = ROW | {
    "aligned": 0.91,
    "aligned_match": "a.png",
    "aligned_picture": "a",
    "aligned_caption": ATTACK,
    "transformation": ATTACK,
    "box_query": [[0, 0], [1, 0], [1, 1], [0, 1]],
    "box_match": [[0, 0], [1, 0], [1, 1], [0, 1]],
    "copied_area": 0.8,
    "agreement_picture": None,
    "copy": True,
    "part": False,
    "group": 3,
}
VERDICT = {
    "copy_share_calibrated": 0.5,
    "copy_share_calibrated_lo": 0.4,
    "copy_share_calibrated_hi": 0.6,
    "copy_share_calibrated_n": 3,
    "threshold": 0.6,
    "threshold_lo": 0.5,
    "threshold_hi": 0.7,
    "innocents_n": 20,
}
CALIBRATED_SETTINGS = SETTINGS | {"threshold_of": "aligned", "innocents_from": "base_dir"}


def test_the_calibrated_threshold_reaches_the_table_and_its_marks(write):
    report = write(rows=[ALIGNED_ROW], metrics=METRICS | VERDICT, settings=CALIBRATED_SETTINGS)
    assert table_data(report)["calibrated"] == {
        "of": "aligned",
        "threshold": 0.6,
        "threshold_lo": 0.5,
        "threshold_hi": 0.7,
    }
    assert "of aligned is above the calibrated threshold" in report
    assert "the training image that it agrees with best" in report
    assert table_data(report)["rows"][0]["transformation"] == ATTACK
    assert "<script>alert(1)" not in report
    plain = write()
    assert "calibrated" not in table_data(plain)
    assert "each with its nearest training image." in plain
    assert "then the training images most similar to it, with scores; the frame" in plain


def test_a_second_look_without_a_verdict_is_marked_by_the_fixed_threshold(write):
    report = write(rows=[ALIGNED_ROW])
    assert "A marked score" in report
    assert "the training image that it agrees with best" in report
    assert "calibrated" not in table_data(report)


def test_the_lead_of_a_verdict_is_a_paragraph_of_its_own(write):
    report = write(rows=[ALIGNED_ROW], metrics=METRICS | VERDICT, settings=CALIBRATED_SETTINGS)
    lead, further = re.search(r'<p class="lead">(.*?)</p>\n<p>(.*?)</p>', report).groups()
    assert lead.startswith("50.0 % of 3 images")
    assert further.startswith("The threshold is calibrated")
    assert '</p>\n<p class="faint">' in write().split('class="lead"')[1]


def test_the_histogram_of_the_verdict_stands_beside_that_of_similarity(write, tmp_path):
    plots = []
    for name in ("similarity.png", "copy_share.png", page.VERDICT_PLOT):
        Image.new("RGB", (4, 4)).save(tmp_path / name)
        plots.append((tmp_path / name, name))
    report = write(plots=plots)
    similarity, rest = report.split('id="similarity"')[1].split("</section>", 1)
    assert re.findall('alt="(.*?)"', similarity) == ["similarity.png", page.VERDICT_PLOT]
    assert "copy_share.png" in rest
    assert 'class="beside"' not in write()
