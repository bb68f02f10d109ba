"""Pages as a reader meets them: opened from disk in Chromium, used by mouse and keys."""

import importlib.util
import json
import os
import shutil
from contextlib import contextmanager

import pytest

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
NEEDED = {
    "chromium": CHROMIUM,
    "chromedriver": DRIVER,
    "selenium": importlib.util.find_spec("selenium"),
}
MISSING = ", ".join(name for name, found in NEEDED.items() if found is None)
if MISSING and os.environ.get("REQUIRE_CHROMIUM"):
    pytest.fail(f"REQUIRE_CHROMIUM is set, and there is no {MISSING}", pytrace=False)
if MISSING:
    pytest.skip(f"pages are not tested in a browser: no {MISSING}", allow_module_level=True)

from selenium import webdriver  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.support.select import Select  # noqa: E402, F401
from selenium.webdriver.support.ui import WebDriverWait  # noqa: E402


@contextmanager
def chromium():
    """Yield a browser without a window."""
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    flags = (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--window-size=1280,900",
    )
    for flag in flags:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    try:
        yield driver
    finally:
        driver.quit()


def open_page(browser, path):
    """The page at `path`, loaded afresh."""
    for name in ("browser", "performance"):
        browser.get_log(name)  # forgets what came before
    browser.get(path.as_uri())
    return browser


def requests(browser):
    """Addresses outside the page that it asked for since it was opened."""
    messages = (json.loads(entry["message"])["message"] for entry in browser.get_log("performance"))
    sent = [
        m["params"]["request"]["url"]
        for m in messages
        if m["method"] == "Network.requestWillBeSent"
    ]
    assert any(url.startswith("file:") for url in sent)
    return [url for url in sent if not url.startswith(("file:", "data:", "blob:"))]


def texts(browser, selector):
    script = "return [...document.querySelectorAll(arguments[0])].map(e => e.textContent)"
    return browser.execute_script(script, selector)


def fill(browser, name, text):
    field = browser.find_element(By.ID, name)
    field.send_keys(Keys.CONTROL, "a")
    field.send_keys(Keys.DELETE, text)


def press(browser, *keys):
    webdriver.ActionChains(browser).send_keys(*keys).perform()


def focused(browser):
    return browser.execute_script("return document.activeElement")


def tab_to(browser, wanted):
    """Tab on until `wanted` has the focus."""
    for _ in range(60):
        if focused(browser) == wanted:
            return
        press(browser, Keys.TAB)
    raise AssertionError(f"Tab does not reach {wanted.get_attribute('outerHTML')[:80]}")


def waited(browser, holds):
    """Wait until `holds()`, at most five seconds."""
    WebDriverWait(browser, 5).until(lambda _: holds())


CONTRASTS = """
const light = (rgb) => {
  const [r, g, b] = rgb.map((v) => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const parts = (colour) => colour.match(/[\\d.]+/g).map(Number);
const behind = (e) => {  // the first background below the text that is not transparent
  for (; e; e = e.parentElement) {
    const [r, g, b, alpha = 1] = parts(getComputedStyle(e).backgroundColor);
    if (alpha === 1) return [r, g, b];
  }
  return null;
};
return Object.fromEntries(arguments[0].map((selector) => {
  const element = document.querySelector(selector);
  const [a, b] = [parts(getComputedStyle(element).color).slice(0, 3), behind(element)].map(light).sort((x, y) => x - y);
  return [selector, (b + 0.05) / (a + 0.05)];
}));
"""


def unreadable(browser, selectors):
    """Selectors of texts whose contrast is below 4.5, with their contrast."""
    contrasts = browser.execute_script(CONTRASTS, list(selectors))
    return {k: v for k, v in contrasts.items() if v < 4.5}
