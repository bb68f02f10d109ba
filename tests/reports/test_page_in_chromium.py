"""The report as a reader meets it: opened from disk in a browser, sorted, filtered, walked through
by keys alone."""

import io
import re

import numpy as np
import pytest
from PIL import Image

from tests.reports.in_chromium import (
    By,
    Keys,
    Select,
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
    image.save(buffer, "JPEG", quality=90, subsampling=0)
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


# A report with a second look ----------------------------------------------------------------------

# x and y of the corners, by hand: the right half of the generated image in its middle height, which
# is the left half of the training image, mirrored
BOX_QUERY = [[1, 0.25], [0.5, 0.25], [0.5, 0.75], [1, 0.75]]
BOX_MATCH = [[0, 0.25], [0.5, 0.25], [0.5, 0.75], [0, 0.75]]
RED, BLUE = (220, 20, 20), (20, 20, 220)
# aligned, score, is it a copy?, a part?; the third has nothing to align, the fourth another best
# match by the descriptor
ALIGNED_PAIRS = (
    (0.9, 0.3, True, False),
    (0.2, 0.7, False, True),
    (None, 0.97, False, False),
    (0.8, 0.4, True, False),
)


def marked(size, box):
    """A blue picture, red within the box."""
    image = Image.new("RGB", size, BLUE)
    xs, ys = ([round(c[i] * size[i]) for c in box] for i in (0, 1))
    image.paste(RED, (min(xs), min(ys), max(xs), max(ys)))
    return jpeg(image)


@pytest.fixture(scope="module")
def aligned_report(tmp_path_factory):
    """A report of four pairs. Generated images are 60 by 120, training images 120 by 60 pixels; on
    both the shared part is red."""
    folder = tmp_path_factory.mktemp("aligned")
    rows = []
    for i, (aligned, score, copy, part) in enumerate(ALIGNED_PAIRS):
        known = aligned is not None
        pair = {
            "aligned": aligned,
            "aligned_match": "best.png",
            "aligned_picture": "m",
            "aligned_caption": ATTACKS[1],
            "aligned_duplicated": True,
            "transformation": ATTACKS[0] if i == 1 else "mirrored, 82 % crop, shifted 9 %",
            "box_query": BOX_QUERY,
            "box_match": BOX_MATCH,
            "copied_area": 0.815,
            "agreement_picture": "map m",
            "query_agreement_picture": "map q",
        }
        rows.append(
            {
                "query": f"q{i}.png",
                "match": "other.png" if i == 3 else "best.png",
                "score": score,
                "prompt": f"prompt {i}",
                "caption": "caption of the descriptor's",
                "duplicated": False,
                "query_picture": "q",
                "match_picture": "o" if i == 3 else "m",
                **{key: value if known else None for key, value in pair.items()},
                "copy": copy,
                "part": part,
                "group": 3 if i == 0 else None,
            }
        )
    grey = jpeg(Image.new("RGB", (60, 60), (90, 90, 90)))
    pictures = {
        "q": marked((60, 120), BOX_QUERY),
        "m": marked((120, 60), BOX_MATCH),
        "o": grey,
        "map m": jpeg(Image.new("RGB", (120, 60), (128, 128, 128))),
        "map q": jpeg(Image.new("RGB", (60, 120), (128, 128, 128))),
    }
    share = {"copy_share_calibrated": 0.5, "copy_share": 0.25}
    metrics = {"innocents_n": 40, "false_positive_rate": 0.5, "innocents_calibrated_rate": 0.0}
    metrics |= {"threshold": 0.6, "threshold_lo": 0.55, "threshold_hi": 0.65}
    for key, value in share.items():
        metrics |= {key: value, f"{key}_lo": 0.0, f"{key}_hi": 1.0, f"{key}_n": 4}
    settings = {
        "pt_style": "pixel",
        "copy_threshold": THRESHOLD,
        "align": True,
        "threshold_of": "aligned",
        "innocents_from": "holdout",
        "fixed_threshold_void": True,
    }
    path = folder / "report.html"
    page.write_report(
        path,
        page.Report(
            metrics=metrics,
            words={},
            settings=settings,
            counts={},
            left_out={},
            plots=[],
            pages=[],
            table=page.MatchTable(rows, pictures, total=4),
        ),
    )
    return path


@pytest.fixture
def second_look(browser, aligned_report):
    """The page with aligned pairs, loaded afresh."""
    browser.get_log("browser")
    browser.get(aligned_report.as_uri())
    return browser


def open_row(browser, number):
    browser.find_elements(By.CSS_SELECTOR, "#rows button")[number].click()
    wait_for_pictures(browser)


def wait_for_pictures(browser):
    """Until the pictures of the dialog have loaded and their outlines are drawn."""
    browser.execute_async_script(
        "const done = arguments[0];"
        "Promise.all(['query', 'match'].map(s => document.getElementById(`${s}-image`).decode()))"
        ".then(() => requestAnimationFrame(() => requestAnimationFrame(done)))"
    )


def fact_of(browser, name):
    facts = zip(texts(browser, "#facts dt"), texts(browser, "#facts dd"), strict=True)
    return dict(facts).get(name)


def test_aligned_pairs_sort_by_aligned_and_say_what_was_done(second_look):
    assert column(second_look, "aligned") == ["0.900", "0.800", "0.200", "–"]
    assert sorting(second_look, "aligned") == "descending"
    done = column(second_look, "what was done")
    assert done[0] == "mirrored, 82 % crop, shifted 9 %"
    assert done[2] == f"{ATTACKS[0]}part copied"
    assert done[3] == "shares only flat areas"
    assert column(second_look, "copied area")[0] == "82 %"
    assert column(second_look, "score") == ["0.300", "0.400", "0.700", "0.970"]
    names = column(second_look, "image and match")
    assert names == [
        "q0.pngbest.pngone of 3 near-duplicates",
        "q3.pngbest.png",
        "q1.pngbest.png",
        "q2.pngbest.png",
    ]
    # the threshold of `aligned` decides, although one score is above the fixed one
    assert texts(second_look, "#rows .over") == ["0.900", "0.800"]
    assert second_look.execute_script("return window.ran") is None
    assert second_look.get_log("browser") == []


def test_the_page_says_first_that_the_fixed_threshold_is_void(second_look):
    (first, further) = texts(second_look, "h1 ~ p:not(.faint)")
    assert first.startswith(
        "The fixed threshold, pixel similarity above 0.95, is void here: 50.0 %"
    )
    assert "40 pictures that nobody copied" in further


def test_filters_of_aligned_and_of_kinds(second_look):
    def shown():
        return [text[:2] for text in column(second_look, "image and match")]

    labels = [label.text for label in second_look.find_elements(By.CSS_SELECTOR, ".filters label")]
    assert labels[1:3] == ["min aligned", "max aligned"]
    kind = Select(second_look.find_element(By.ID, "kind"))
    for key, wanted in (
        ("copies", ["q0", "q3"]),
        ("part copied", ["q1"]),
        ("neither", ["q2"]),
        ("all", ["q0", "q3", "q1", "q2"]),
    ):
        kind.select_by_visible_text(key)
        assert shown() == wanted
    fill(second_look, "min-score", "0.5")
    assert shown() == ["q0", "q3"]
    fill(second_look, "min-score", "")
    fill(second_look, "max-score", "0.8")
    assert shown() == ["q3", "q1"]


@pytest.mark.parametrize("window", [(1280, 900), (400, 800), (900, 420)])
def test_boxes_lie_on_the_shared_part_at_any_size(second_look, window):
    size = {"deviceScaleFactor": 1, "mobile": False, "width": window[0], "height": window[1]}
    second_look.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        open_row(second_look, 2)  # no copy, so without a frame in a colour near red
        for side, first in (("query", "right"), ("match", "left")):
            check_box(second_look, side, first)
    finally:
        second_look.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


CORNERS = """
const path = document.querySelector(`#${arguments[0]}-box .line.ink`);
return path.getAttribute("d").slice(1, -1).split("L").map((pair) => {
  const point = new DOMPoint(...pair.split(",").map(Number)).matrixTransform(path.getScreenCTM());
  return [point.x, point.y];
});
"""


def check_box(browser, side, first):
    """Where the outline is on the screen, against where the picture is red on it."""
    image = browser.find_element(By.ID, f"{side}-image")
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", image)
    place = browser.execute_script(
        "const r = arguments[0].getBoundingClientRect(); return [r.left, r.top, r.right, r.bottom]",
        image,
    )
    corners = browser.execute_script(CORNERS, side)
    svg = browser.find_element(By.ID, f"{side}-box")
    screen = Image.open(io.BytesIO(browser.get_screenshot_as_png())).convert("RGB")
    part = np.asarray(screen.crop([round(v) for v in place])).astype(int)
    is_red = (part[..., 0] > 150) & (part[..., 1] < 90) & (part[..., 2] < 90)
    ys, xs = np.nonzero(is_red)
    red = [xs.min() + place[0], ys.min() + place[1], xs.max() + place[0], ys.max() + place[1]]
    x, y = zip(*corners, strict=True)
    assert max(x) - min(x) > 30
    # the line covers some pixels on either side of the edge, JPEG blurs a pixel of the picture
    pixel = browser.execute_script("return arguments[0].getScreenCTM().a", svg)
    assert np.abs(np.array([min(x), min(y), max(x), max(y)]) - red).max() < 3.5 + pixel
    assert corners[0] == [pytest.approx(max(x) if first == "right" else min(x)), min(y)]
    assert len(browser.find_elements(By.CSS_SELECTOR, f"#{side}-box .corner.ink")) == 1


def test_the_dialog_shows_the_aligned_pair_and_its_facts(second_look):
    open_row(second_look, 0)
    assert fact_of(second_look, "aligned") == "0.900"
    assert fact_of(second_look, "what was done") == "mirrored, 82 % crop, shifted 9 %"
    assert fact_of(second_look, "copied area") == "82 %"
    assert fact_of(second_look, "training image") == "one of 3 near-duplicates"
    assert fact_of(second_look, "threshold of a copy") == "aligned above 0.600 (0.550 to 0.650)"
    assert fact_of(second_look, "training image duplicated") == "yes"
    assert texts(second_look, "#match-title, #match-name, #match-text") == [
        "best aligned training image",
        "best.png",
        ATTACKS[1],
    ]
    assert not second_look.find_element(By.ID, "other").is_displayed()
    alt = second_look.find_element(By.ID, "query-image").get_attribute("alt")
    assert alt == "generated image q0.png, the shared part is outlined"


def test_the_descriptors_own_best_match_is_shown_where_it_is_another(second_look):
    open_row(second_look, 1)
    assert second_look.find_element(By.ID, "other").is_displayed()
    assert texts(second_look, "#other-name, #other-text") == ["other.png", "pixel 0.400"]
    classes = {
        side: "copied" in second_look.find_element(By.ID, f"{side}-image").get_attribute("class")
        for side in ("match", "other")
    }
    assert classes == {"match": True, "other": False}
    press(second_look, Keys.ARROW_RIGHT)
    assert not second_look.find_element(By.ID, "other").is_displayed()


def sources(browser):
    """The pictures that the dialog shows."""
    return browser.execute_script(
        "return ['query', 'match'].map(s => document.getElementById(`${s}-image`).src)"
    )


def test_the_map_is_shown_and_hidden_by_a_key_and_stays_from_pair_to_pair(second_look):
    open_row(second_look, 0)
    plain, box = sources(second_look), second_look.find_element(By.ID, "agreement")
    press(second_look, "m")
    assert box.is_selected()
    maps = sources(second_look)
    assert not set(maps) & set(plain)
    alt = second_look.find_element(By.ID, "match-image").get_attribute("alt")
    assert "in grey fog where both differ" in alt
    wait_for_pictures(second_look)
    assert second_look.find_elements(By.CSS_SELECTOR, "#match-box .line.ink")
    press(second_look, Keys.ARROW_RIGHT)
    assert sources(second_look) == maps
    press(second_look, "m")
    assert (sources(second_look), box.is_selected()) == (plain, False)
    tab_to(second_look, box)  # and by the box itself
    press(second_look, Keys.SPACE)
    assert sources(second_look) == maps
    assert "(m)" in box.accessible_name


def test_a_pair_with_nothing_to_align_has_no_box_and_no_map(second_look):
    open_row(second_look, 3)
    assert not second_look.find_element(By.ID, "agreement").is_enabled()
    before = sources(second_look)
    press(second_look, "m")
    assert sources(second_look) == before
    assert second_look.find_elements(By.CSS_SELECTOR, "#pair svg path") == []
    assert texts(second_look, "#match-title") == ["nearest training image"]
    assert fact_of(second_look, "what was done") == "shares only flat areas"
    press(second_look, Keys.ARROW_LEFT)
    wait_for_pictures(second_look)
    assert second_look.find_elements(By.CSS_SELECTOR, "#query-box .line.ink")


def test_controls_of_the_second_look_have_names_and_the_page_without_one_lacks_them(
    second_look, report
):
    assert second_look.find_element(By.ID, "kind").accessible_name == "show"
    second_look.get(report.as_uri())
    assert not second_look.find_element(By.ID, "kind").is_displayed()
    second_look.find_element(By.CSS_SELECTOR, "#rows tr").click()
    assert not second_look.find_element(By.ID, "agreement").is_displayed()
    press(second_look, "m")
    assert not second_look.find_element(By.ID, "agreement").is_selected()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_of_the_second_look_can_be_read_in_either_scheme(second_look, scheme):
    feature = {"name": "prefers-color-scheme", "value": scheme}
    second_look.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
    try:
        open_row(second_look, 2)
        selectors = [".group", ".done", ".part", ".done .faint", "#map", "#kind", "#match-title"]
        assert unreadable(second_look, selectors) == {}
    finally:
        second_look.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def test_the_dialog_of_a_pair_fits_a_narrow_window(second_look):
    size = {"width": 400, "height": 800, "deviceScaleFactor": 1, "mobile": False}
    second_look.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    wide = "const e = document.querySelector(arguments[0]); return e.scrollWidth - e.clientWidth"
    try:
        open_row(second_look, 1)
        assert second_look.execute_script(wide, "dialog") == 0
        assert second_look.execute_script(wide, "html") == 0
    finally:
        second_look.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
