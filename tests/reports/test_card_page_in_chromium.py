"""The memorization card as a reader meets it: opened from disk in a browser, sorted, filtered,
walked through by keys alone, on a phone, on paper."""

import base64
import re

import pytest

from tests.reports import sample_card
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
    waited,
)
from utils.card.card_files import write_card

CAPTION, COPIES, SCORE, NEAR, SKIPPED = 2, 3, 5, 6, 8  # columns of the table, from 1


@pytest.fixture(scope="module")
def card(tmp_path_factory):
    folder = tmp_path_factory.mktemp("card")
    write_card(folder, sample_card.card(), sample_card.pictures(size=96))
    return folder / "card.html"


@pytest.fixture(scope="module")
def browser():
    with chromium() as driver:
        yield driver


@pytest.fixture
def opened(browser, card):
    """The card, loaded afresh."""
    return open_page(browser, card)


def column(browser, number):
    """What a column of the table reads, from the top, of the rows that are shown."""
    return texts(browser, f"#offenders tbody tr:not([hidden]) > :nth-child({number})")


def header(browser, number):
    return browser.find_element(By.CSS_SELECTOR, f"#offenders th:nth-child({number}) button")


def sorting(browser, number):
    return header(browser, number).find_element(By.XPATH, "..").get_attribute("aria-sort")


def is_open(browser):
    return browser.execute_script("return document.getElementById('pair').open")


def said(browser, name):
    return browser.find_element(By.ID, name).text


def test_the_page_loads_without_errors_or_requests(opened):
    assert requests(opened) == []
    assert opened.get_log("browser") == []
    assert opened.execute_script(
        "return [...document.images].every(i => i.complete && i.naturalWidth > 0)"
    )


def test_the_answer_is_seen_without_scrolling_and_has_the_colour_of_its_verdict(opened):
    sentence = opened.find_element(By.CLASS_NAME, "sentence")
    assert sentence.text == sample_card.answer().sentence
    assert sentence.rect["y"] + sentence.rect["height"] < 500
    colour = "return getComputedStyle(document.querySelector('.verdict')).backgroundColor"
    assert opened.execute_script(colour) == "rgb(213, 94, 0)"


def test_rows_sort_both_ways_and_the_empty_ones_stay_last(opened):
    copies = [7, 6, 4, 4, 3, 2, 2, 1, 1, 1, 1, 1]
    assert sorting(opened, COPIES) == "descending"
    assert list(map(int, column(opened, COPIES))) == copies
    header(opened, COPIES).click()
    assert (list(map(int, column(opened, COPIES))), sorting(opened, COPIES)) == (
        copies[::-1],
        "ascending",
    )
    for expected in (["18", "12", "6", "0"], ["0", "6", "12", "18"]):
        header(opened, SKIPPED).click()
        assert column(opened, SKIPPED) == expected + ["–"] * 8
    assert sorting(opened, COPIES) is None
    header(opened, CAPTION).click()
    plain = [c for c in column(opened, CAPTION) if c.startswith("a ")]
    assert plain == sorted(plain)


def test_filters_narrow_and_the_count_follows(opened):
    assert said(opened, "count") == "shown 12 of 12"
    fill(opened, "least", "4")
    assert (column(opened, COPIES), said(opened, "count")) == (
        ["7", "6", "4", "4"],
        "shown 4 of 12",
    )
    fill(opened, "contains", "ONERROR")
    assert said(opened, "count") == "shown 1 of 12"
    fill(opened, "contains", "in no caption and no name")
    assert column(opened, COPIES) == []
    fill(opened, "least", "")
    fill(opened, "contains", "0007.png")
    assert column(opened, SCORE) == ["0.921"]


def test_captions_are_text_and_nothing_of_them_runs(opened):
    assert texts(opened, ".caption")[: len(sample_card.ATTACKS)] == list(sample_card.ATTACKS)
    opened.find_elements(By.CSS_SELECTOR, ".copies .pic")[0].click()
    assert texts(opened, "#copy-text") == [sample_card.ATTACKS[0]]
    press(opened, *[Keys.ARROW_RIGHT] * 4)
    assert texts(opened, "#own-name") == [sample_card.ATTACKS[1]]
    assert opened.execute_script("return window.ran") is None
    assert opened.find_elements(By.CSS_SELECTOR, "img[onerror], img[src=x], svg[onload]") == []
    assert len(opened.find_elements(By.TAG_NAME, "script")) == 1


def test_a_click_on_a_copy_opens_it_beside_the_training_picture(opened):
    opened.find_elements(By.CSS_SELECTOR, ".copies .pic")[2].click()
    assert is_open(opened)
    assert said(opened, "position") == "Pair 3 of 28"
    facts = dict(zip(texts(opened, "#facts dt"), texts(opened, "#facts dd"), strict=True))
    assert facts == {
        "score": "0.946",
        "what was done to it": "turned by 7 degrees, 91 % crop",
        "seed": "1002",
        "duplicated on purpose": "yes",
        "near-duplicates": "star/0_copy.png, star/1_copy.png, star/2_copy.png",
    }
    assert said(opened, "own-name") == "star/0000.png"
    assert said(opened, "copy-name") == "images/000002.png"
    assert opened.find_element(By.ID, "agreement").is_displayed()
    press(opened, Keys.ARROW_LEFT)
    assert not opened.find_element(By.ID, "agreement").is_displayed()
    opened.find_element(By.ID, "close").click()
    assert not is_open(opened)


def test_boxes_lie_on_what_is_seen_of_their_pictures(opened):
    """The row of a picture that is no square: its box ends where the picture does, not the
    frame."""
    fill(opened, "contains", "0003.png")
    script = """
      const frame = document.querySelector('#offenders tbody tr:not([hidden]) .pic');
      const image = frame.querySelector('img'), box = frame.querySelector('.line');
      const [f, b] = [image.getBoundingClientRect(), box.getBoundingClientRect()];
      const high = f.width * image.naturalHeight / image.naturalWidth;
      const top = f.top + (f.height - high) / 2;
      return [(b.top - top) / high, (b.bottom - top) / high, (b.left - f.left) / f.width]
    """
    top, bottom, left = opened.execute_script(script)
    assert (top, bottom, left) == pytest.approx((0.0, 0.9, 0.1), abs=0.05)


def test_the_whole_path_by_keyboard_alone(opened):
    tab_to(opened, header(opened, SCORE))
    outline = "return getComputedStyle(document.activeElement).outlineStyle"
    assert opened.execute_script(outline) == "solid"
    press(opened, Keys.ENTER, Keys.ENTER)  # the lowest score first
    button = opened.find_element(By.CSS_SELECTOR, "#offenders tbody tr:nth-child(2) .open")
    assert column(opened, SCORE)[1] == "0.900"
    tab_to(opened, button)
    assert button.accessible_name == "compare star/0010.png with its copies"
    press(opened, Keys.ENTER)
    assert is_open(opened)
    assert said(opened, "own-name") == "star/0010.png"
    press(opened, Keys.ARROW_RIGHT)
    assert said(opened, "own-name") == "star/0009.png"
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
    copy = opened.find_element(By.CSS_SELECTOR, "#what-helps-here .copy")
    tab_to(opened, copy)
    press(opened, Keys.SPACE)
    waited(opened, lambda: copy.text in ("Copied", "Marked"))


@pytest.fixture
def may(browser):
    """Grant the page nothing but these permissions."""

    def grant(*permissions):
        browser.execute_cdp_cmd("Browser.grantPermissions", {"permissions": permissions})

    yield grant
    browser.execute_cdp_cmd("Browser.resetPermissions", {})


def test_a_command_is_copied_as_it_stands(opened, may):
    may("clipboardReadWrite", "clipboardSanitizedWrite")
    opened.find_element(By.CSS_SELECTOR, "#what-to-do-next-time .copy").click()
    waited(opened, lambda: texts(opened, "#said") == ["The command was copied."])
    read = "return navigator.clipboard.readText()"
    assert opened.execute_script(read) == sample_card.advice()[0].command


def test_a_command_that_must_not_be_copied_is_marked(opened, may):
    may("geolocation")
    opened.find_element(By.CSS_SELECTOR, "#what-to-do-next-time .copy").click()
    waited(opened, lambda: texts(opened, "#said") == ["The command is marked, copy it."])
    marked = "return window.getSelection().toString()"
    assert opened.execute_script(marked) == sample_card.advice()[0].command


def test_inputs_buttons_and_pictures_have_names(opened):
    def unnamed(selector):
        found = opened.find_elements(By.CSS_SELECTOR, selector)
        return [c for c in found if c.is_displayed() and not c.accessible_name]

    assert unnamed("input, button, summary") == []
    opened.find_element(By.CSS_SELECTOR, ".copies .pic").click()
    assert unnamed("dialog button") == []
    assert opened.execute_script("return [...document.images].every(i => i.alt)")


TEXTS = (
    "h1",
    "header p",
    ".void",
    ".verdict",
    ".sentence",
    ".detail",
    "nav a",
    "p.faint",
    "#offenders th button",
    "#offenders th.plain",
    ".caption",
    ".name",
    "td.number",
    "#contains",
    "#count",
    ".finding",
    "caption",
    ".mark",
    "pre code",
    ".copy",
    "summary",
    ".list code",
    "#position",
    "#own-name",
    "#copy-text",
    "dialog dt",
    "dialog dd",
)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_can_be_read_in_either_scheme(opened, scheme):
    feature = {"name": "prefers-color-scheme", "value": scheme}
    opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
    try:
        opened.find_element(By.CSS_SELECTOR, ".copies .pic").click()
        background = opened.execute_script("return getComputedStyle(document.body).backgroundColor")
        brightness = sum(map(int, re.findall(r"\d+", background)[:3])) / 3
        assert brightness < 60 if scheme == "dark" else brightness > 240
        assert unreadable(opened, TEXTS) == {}
    finally:
        opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


@pytest.mark.parametrize("width", [360, 400, 700, 1000])
def test_a_narrow_window_needs_no_scrolling_sideways(opened, width):
    size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": False}
    opened.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    wide = "const e = document.querySelector(arguments[0]); return e.scrollWidth - e.clientWidth"
    try:
        assert opened.execute_script("return window.innerWidth") == width
        assert opened.execute_script(wide, "html") == 0
        if width < 736:
            assert opened.execute_script(wide, ".scroll:has(#offenders)") == 0
        opened.find_element(By.CSS_SELECTOR, ".copies .pic").click()
        assert opened.execute_script(wide, "dialog") == 0
    finally:
        opened.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_paper_has_the_tables_and_how_it_was_made_and_no_controls(opened):
    opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    try:
        opened.execute_script("window.dispatchEvent(new Event('beforeprint'))")
        for hidden in (".filters", ".copy", "nav"):
            assert not opened.find_element(By.CSS_SELECTOR, hidden).is_displayed()
        assert "pt_style" in opened.find_element(By.ID, "how-it-was-made").text
        assert len(column(opened, COPIES)) == 12
    finally:
        opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
    paper = opened.execute_cdp_cmd("Page.printToPDF", {"printBackground": True})
    assert base64.b64decode(paper["data"]).startswith(b"%PDF")


def test_without_javascript_everything_can_still_be_read(browser, card):
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        browser.get(card.as_uri())
        assert "need JavaScript" in browser.find_element(By.ID, "worst-offenders").text
        assert not browser.find_element(By.CLASS_NAME, "filters").is_displayed()
        assert len(browser.find_elements(By.CSS_SELECTOR, "#offenders tbody tr")) == 12
        assert not browser.find_element(By.CSS_SELECTOR, ".copy").is_displayed()
    finally:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
