"""The report as a reader meets it: opened from disk in a browser, sorted, filtered, walked through
by keys alone."""

import io
import re

import pytest

from tests.reports.in_chromium import (
    By,
    Keys,
    chromium,
    fill,
    focused,
    open_page,
    press,
    requests,
    tab_to,
    texts,
    unreadable,
)
from utils.data import scenes
from utils.reports import galleries, page

ATTACKS = (
    '<img src=x onerror="window.ran = 1">',
    "</script><script>window.ran = 2</script>",
    "<!--<script> \u2028 & &lt;b&gt; {{1}}",
)
SCORES = (0.991, 0.982, 0.97, 0.96, 0.951, 0.949, 0.9, 0.86, 0.8, 0.7, 0.1, 0.09)
THRESHOLD = 0.95


def jpeg(image):
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """A report of twelve rows, most similar first; the last three prompts are attacks, row 6 has
    none."""
    folder = tmp_path_factory.mktemp("report")
    drawn = [scenes.scene_at(i, size=128) for i in range(12)]
    prompts = [scene.captions[0] for scene in drawn[:9]] + list(ATTACKS)
    prompts[6] = None
    rows = [
        {
            "query": f"images/{i:06d}.png",
            "match": f"star/{i % 5}.png",
            "score": score,
            "prompt": prompts[i],
            "caption": ATTACKS[0] if i == 0 else f"caption {i}",
            "source_image": f"star/{i}.png",
            "seed": 100 + i,
            "source_score": None if i == 3 else score / 2,
            "duplicated": [True, False, None][i % 3],
            "clipscore": None,
            "query_picture": f"q{i}",
            "match_picture": f"m{i % 5}",
        }
        for i, score in enumerate(SCORES)
    ]
    pictures = {f"q{i}": jpeg(scene.image) for i, scene in enumerate(drawn)}
    pictures |= {f"m{i}": jpeg(drawn[i].image.rotate(5)) for i in range(5)}
    gallery = folder / "page_01.png"
    shown = galleries.match_page(
        [(s.image, "a", [(s.image, 0.97, "b")]) for s in drawn[:3]], threshold=0.9
    )
    shown.save(gallery)
    metrics = {
        "sim_95pc": 0.98,
        "bg_95pc": 0.9,
        "copy_share": 0.4,
        "copy_share_lo": 0.3,
        "copy_share_hi": 0.5,
        "copy_share_n": 12,
        "fd_a_network_with_a_rather_long_name": 12.3,
    }
    settings = {
        "query_dir": "runs/" + "generations/" * 12,
        "val_dir": ATTACKS[1],
        "pt_style": "pixel",
        "copy_threshold": THRESHOLD,
    }
    path = folder / "report.html"
    report = page.Report(
        metrics=metrics,
        words={},
        settings=settings,
        counts={"generated": 12},
        left_out={"clip": ATTACKS[0]},
        plots=[(gallery, "histogram")],
        pages=[jpeg(shown)] * 2,
        table=page.MatchTable(rows, pictures, total=12),
    )
    page.write_report(path, report)
    return path


@pytest.fixture(scope="module")
def browser():
    with chromium() as driver:
        yield driver


@pytest.fixture
def opened(browser, report):
    """The page, loaded afresh."""
    return open_page(browser, report)


def column(browser, title):
    """What a column of the table reads, from the top."""
    at = [re.sub(r"\W+$", "", t) for t in texts(browser, "#columns th")].index(title) + 1
    return texts(browser, f"#rows td:nth-child({at})")


def header(browser, title):
    return browser.find_element(By.XPATH, f"//tr[@id='columns']//button[text()='{title}']")


def sorting(browser, title):
    return header(browser, title).find_element(By.XPATH, "..").get_attribute("aria-sort")


def is_open(browser):
    return browser.execute_script("return document.getElementById('pair').open")


def test_the_page_loads_without_errors_or_requests(opened):
    assert requests(opened) == []
    assert opened.get_log("browser") == []
    assert opened.execute_script(
        "return [...document.images].every(i => i.id || (i.complete && i.naturalWidth > 0))"
    )


def test_scores_sort_both_ways(opened):
    down = [f"{s:.3f}" for s in SCORES]
    assert (column(opened, "score"), sorting(opened, "score")) == (down, "descending")
    header(opened, "score").click()
    assert (column(opened, "score"), sorting(opened, "score")) == (down[::-1], "ascending")
    header(opened, "score").click()
    assert (column(opened, "score"), sorting(opened, "score")) == (down, "descending")


def test_the_empty_ones_are_last_either_way(opened):
    for title, empty in (("prompt", 1), ("source score", 1), ("duplicated", 4)):
        for _ in range(2):
            header(opened, title).click()
            assert column(opened, title)[-empty:] == ["–"] * empty
            assert "–" not in column(opened, title)[:-empty]
    assert sorting(opened, "score") is None


def test_prompts_sort_as_text_and_numbers_by_value(opened):
    header(opened, "prompt").click()
    prompts = column(opened, "prompt")[:-1]
    plain = [p for p in prompts if p not in ATTACKS]
    assert plain == sorted(plain)
    assert sorting(opened, "prompt") == "ascending"
    header(opened, "source score").click()
    values = [float(v) for v in column(opened, "source score")[:-1]]
    assert values == sorted(values, reverse=True)


def test_a_column_without_values_is_left_out(opened):
    assert "CLIP score" not in "".join(texts(opened, "#columns th"))


def test_scores_over_the_threshold_are_marked(opened):
    assert texts(opened, "#rows .over") == [f"{s:.3f}" for s in SCORES if s > THRESHOLD]


def test_filters_narrow_and_the_count_follows(opened):
    count = opened.find_element(By.ID, "count")
    assert count.text == "shown 12 of 12"
    fill(opened, "min-score", "0.7")
    fill(opened, "max-score", "0.96")
    assert column(opened, "score") == [
        "0.960",
        "0.951",
        "0.949",
        "0.900",
        "0.860",
        "0.800",
        "0.700",
    ]
    assert count.text == "shown 7 of 12"
    fill(opened, "contains", "000004")
    assert (column(opened, "score"), count.text) == (["0.951"], "shown 1 of 12")
    fill(opened, "contains", "in no prompt and no name")
    assert count.text == "shown 0 of 12"
    for name in ("min-score", "max-score"):
        fill(opened, name, "")
    fill(opened, "contains", "ONERROR")
    assert column(opened, "prompt") == [ATTACKS[0]]


def test_captions_are_text_and_nothing_of_them_runs(opened):
    assert set(ATTACKS) <= set(column(opened, "prompt"))
    opened.find_elements(By.CSS_SELECTOR, "#rows tr")[0].click()
    assert texts(opened, "#match-text") == [ATTACKS[0]]
    assert ATTACKS[0] in texts(opened, "#skipped td")
    assert any(ATTACKS[1] in t for t in texts(opened, "p.faint"))
    assert opened.execute_script("return window.ran") is None
    assert opened.find_elements(By.CSS_SELECTOR, "img[onerror], img[src=x]") == []
    assert len(opened.find_elements(By.TAG_NAME, "script")) == 2


def test_a_click_on_a_row_opens_both_images_with_their_captions(opened):
    fill(opened, "min-score", "0.951")
    cell = opened.find_element(By.CSS_SELECTOR, "#rows tr:nth-child(2) td.words")
    cell.click()
    assert is_open(opened)
    loaded = "return Promise.all([...arguments].map(i => i.decode().then(() => i.naturalWidth)))"
    images = [opened.find_element(By.ID, f"{side}-image") for side in ("query", "match")]
    assert opened.execute_script(loaded, *images) == [128, 128]
    assert all(i.is_displayed() for i in images)
    assert images[0].rect["y"] == images[1].rect["y"]
    assert opened.find_element(By.ID, "query-text").text == scenes.scene_at(1).captions[0]
    assert opened.find_element(By.ID, "match-text").text == "caption 1"
    assert opened.find_element(By.ID, "query-name").text == "images/000001.png"
    assert opened.find_element(By.ID, "match-name").text == "star/1.png"
    assert opened.find_element(By.ID, "position").text == "Pair 2 of 5"
    facts = dict(zip(texts(opened, "#facts dt"), texts(opened, "#facts dd"), strict=True))
    assert facts == {
        "score": "0.982",
        "threshold of a copy": "0.95",
        "training image duplicated": "no",
        "prompt's own training image": "star/1.png",
        "its score": "0.491",
        "seed": "101",
    }
    opened.find_element(By.ID, "close").click()
    assert not is_open(opened)
    assert focused(opened) == opened.find_element(By.CSS_SELECTOR, "#rows tr:nth-child(2) button")


def test_arrow_keys_follow_the_table_as_sorted_and_filtered(opened):
    fill(opened, "min-score", "0.1")
    fill(opened, "max-score", "0.8")
    header(opened, "score").click()
    opened.find_element(By.CSS_SELECTOR, "#rows tr").click()
    seen = texts(opened, "#facts dd")[:1]
    for key in (Keys.ARROW_LEFT, *[Keys.ARROW_RIGHT] * 3, Keys.ARROW_LEFT):
        press(opened, key)
        seen.append(texts(opened, "#facts dd")[0])
    assert seen == ["0.100", "0.100", "0.700", "0.800", "0.800", "0.700"]  # it stops at either end
    assert opened.find_element(By.ID, "query-name").text == "images/000009.png"


def test_the_whole_path_by_keyboard_alone(opened):
    tab_to(opened, header(opened, "score"))
    assert (
        opened.execute_script("return getComputedStyle(document.activeElement).outlineStyle")
        == "solid"
    )
    press(opened, Keys.ENTER)
    assert column(opened, "score")[0] == "0.090"
    button = opened.find_element(By.CSS_SELECTOR, "#rows tr:nth-child(3) button")
    tab_to(opened, button)
    assert "images/000009.png" in button.accessible_name
    press(opened, Keys.ENTER)
    assert is_open(opened)
    assert opened.find_element(By.ID, "query-name").text == "images/000009.png"
    press(opened, Keys.ARROW_RIGHT)
    assert opened.find_element(By.ID, "query-name").text == "images/000008.png"
    for _ in range(5):  # Tab stays within the dialog, or goes to the browser itself
        press(opened, Keys.TAB)
        inside = (
            "return document.activeElement === document.body ||"
            " !!document.activeElement.closest('dialog')"
        )
        assert opened.execute_script(inside)
    press(opened, Keys.ESCAPE)
    assert not is_open(opened)
    assert focused(opened) == button


def test_inputs_and_buttons_have_names(opened):
    for control in opened.find_elements(By.CSS_SELECTOR, "#table input, #table button"):
        assert control.accessible_name
    opened.find_element(By.CSS_SELECTOR, "#rows tr").click()
    for control in opened.find_elements(By.CSS_SELECTOR, "dialog button"):
        assert control.accessible_name


TEXTS = (
    "h1",
    ".lead",
    "p.faint",
    ".tile.accent strong",
    ".tile.accent span",
    ".tile h3",
    "nav a",
    "#columns button",
    ".names .faint",
    "#rows .over",
    "#rows .number",
    "#contains",
    "#count",
    ".list code",
    ".list .faint",
    "summary",
    "#position",
    "#previous",
    "#close",
    "#query-name",
    "#query-text",
    "dt",
    "dd",
)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_can_be_read_in_either_scheme(opened, scheme):
    feature = {"name": "prefers-color-scheme", "value": scheme}
    opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
    try:
        opened.find_element(By.CSS_SELECTOR, "#rows tr").click()
        background = opened.execute_script("return getComputedStyle(document.body).backgroundColor")
        brightness = sum(map(int, re.findall(r"\d+", background)[:3])) / 3
        assert brightness < 60 if scheme == "dark" else brightness > 240
        assert unreadable(opened, TEXTS) == {}
        white = "return getComputedStyle(document.querySelector('#similarity img')).backgroundColor"
        assert opened.execute_script(white) == "rgb(255, 255, 255)"
    finally:
        opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def test_a_narrow_window_scrolls_the_table_and_not_the_page(opened):
    size = {"width": 400, "height": 800, "deviceScaleFactor": 1, "mobile": False}
    opened.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    wide = "const e = document.querySelector(arguments[0]); return e.scrollWidth - e.clientWidth"
    try:
        assert opened.execute_script("return window.innerWidth") == 400
        assert opened.execute_script(wide, "html") == 0
        assert opened.execute_script(wide, ".scroll") > 0
        opened.find_element(By.CSS_SELECTOR, "#rows button").click()
        assert opened.execute_script(wide, "dialog") == 0
        assert opened.execute_script(wide, "html") == 0
    finally:
        opened.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_without_javascript_a_sentence_says_so(browser, report):
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        browser.get(report.as_uri())
        assert "The table needs JavaScript" in browser.find_element(By.ID, "matches").text
        assert not browser.find_element(By.ID, "table").is_displayed()
    finally:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
