import re

import pytest
from PIL import Image

from utils.reports import page

SETTINGS = {"query_dir": "<script>alert(1)</script>", "val_dir": "b", "pt_style": "pixel", "copy_threshold": 0.95}
METRICS = {"sim_95pc": 0.98765, "copy_share": 0.25, "copy_share_lo": 0.1, "copy_share_hi": 0.4, "copy_share_n": 128}


@pytest.fixture
def report(tmp_path):
    image = tmp_path / "i.png"
    Image.new("RGB", (4, 4)).save(image)
    path = tmp_path / "report.html"
    page.write_report(
        path, metrics=METRICS, settings=SETTINGS, counts={"generated": 128}, histogram=image, pages=[image] * 2
    )
    return path.read_text()


def test_the_page_needs_nothing_outside_itself(report):
    assert report.count("data:image/png;base64,") == 3
    assert not re.findall(r'(?:src|href)="(?!data:)', report)
    assert "http" not in report


def test_text_of_users_is_escaped(report):
    assert "<script>" not in report
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in report


def test_numbers_can_be_read(report):
    assert "25.0 % of 128 images count as copies of a training image (95 % interval 10.0 to 40.0 %)" in report
    assert "0.9877" in report
    assert page.number(128) == "128"


def test_without_a_threshold_the_headline_is_the_percentile():
    assert page.headline({"sim_95pc": 0.5}, SETTINGS) == "The 95th percentile of similarity is 0.500."
