import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from markdown_it import MarkdownIt

from tests.reports import sample_card
from utils.reports.card_markdown import plain, write_card_markdown

ATTACKS = (
    *sample_card.ATTACKS,
    "a | b | c",
    "a \\| b \\\\| c",
    "# title",
    "1. one",
    "- item",
    "> quote",
    "===",
    "---",
    "| --- | --- |",
    "```\nfence\n```",
    "line\n\n# title\n\n<b>after</b>",
    "[a](https://x.invalid) [b]: https://x.invalid",
    "![pixel](http://x.invalid/p.png)",
    "https://x.invalid www.x.invalid a@x.invalid @everyone #1 :smile:",
    "~~gone~~ **bold** __bold__ _it_ ``code``",
    "&lt;b&gt; &#42;&#42;",
    "<details><summary>x</summary>",
    "$\\alpha$ {{ template }} ${answer}",
    "\u202eevil\u202c\u2028\x00\x1b[31m",
)


class Texts(HTMLParser):
    """The tags of a page and its text."""

    def __init__(self):
        super().__init__()
        self.tags, self.text = [], ""

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)

    def handle_data(self, data):
        self.text += data


def rendered(text):
    """(tags, text) of Markdown with tables and raw HTML, as a hub shows it."""
    found = Texts()
    found.feed(
        MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).render(text)
    )
    return found.tags, found.text


@pytest.fixture
def write(tmp_path):
    """Write a card with what a call changes; returns its Markdown."""

    def write(**changed):
        path = tmp_path / "card.md"
        write_card_markdown(path, sample_card.card(**changed).as_json())
        return path.read_text(encoding="utf-8", errors="surrogateescape")

    return write


@pytest.mark.parametrize("attack", ATTACKS)
def test_untrusted_text_is_text_at_the_start_within_a_line_and_in_a_cell(attack):
    text = plain(attack)
    seen = " ".join(re.sub("[\u202c\u202e\x00\x1b]", "", attack.replace("\u2028", " ")).split())
    for before, after, tags in (
        ("", "", ["p"]),
        ("before ", " after", ["p"]),
        ("**", "** after", ["p", "strong"]),
        ("- part: ", "", ["ul", "li"]),
        (
            "| a | b |\n|---|---|\n| ",
            " | end |",
            ["table", "thead", "tr", "th", "th", "tbody", "tr", "td", "td"],
        ),
    ):
        found, shown = rendered(f"{before}{text}{after}")
        assert found == tags
        assert seen in shown


@pytest.mark.parametrize("attack", ATTACKS)
def test_no_hub_makes_a_link_of_it(attack):
    assert not re.search(
        r"(?i)(https?|mailto|ftp|javascript):[a-z/]|www\.|[@#]\w", plain(attack).replace("&#", "")
    )


@pytest.mark.parametrize(
    "text",
    [
        "a black star, and a white heart (large) on plain orange; 12 % of 40.",
        "star/0001_copy.png",
        "0.934",
        "2026-01-31T12:00:00Z",
        "fd_pixel --rand_augs rand_word_add",
        "Ein Bär, 狗, émoji 🐻",
    ],
)
def test_ordinary_text_stays_as_it_is(text):
    assert plain(text) == text


def test_the_answer_comes_first(write):
    text = write()
    lines = [line for line in text.splitlines() if line]
    assert lines[0] == "## Memorization card"
    assert lines[1].startswith("A verdict by the usual threshold is void here")
    assert lines[2] == f"**{sample_card.answer().sentence}**"
    assert lines[3].startswith("Over the limit of 2 %. ")


def test_it_holds_tables_of_numbers_and_commands_and_nothing_to_load(write):
    text = write()
    tags, shown = rendered(text)
    assert tags.count("table") == 4
    assert not {"img", "a", "script", "b", "svg", "style"} & set(tags)
    assert re.findall("^#+ .*", text, re.MULTILINE) == [
        "## Memorization card",
        "### Numbers",
        "### Pictures that come back most often",
        "### Over training",
        "### What helps",
        "### What to do next time",
        "### Left out",
        "### How it was made",
    ]
    for words in ("0.930", "12 % (8 to 17)", "--rand_augs rand_word_add", "And 2 more.", "800"):
        assert words in shown
    assert not text.startswith("---")  # no YAML


def test_a_part_that_was_left_out_is_named_with_its_reason(write):
    text = write(
        course=None,
        help=None,
        offenders=(),
        advice=(),
        left_out={"over training": "one checkpoint"},
    )
    assert "### Over training" not in text
    assert "- over training: one checkpoint" in text


def test_a_command_cannot_leave_its_block(write):
    command = "python x.py '```'\n```\n# title\n<b>"
    text = write(advice=(), help=None, command=command)
    tags, shown = rendered(text)
    assert f"{command}\n" in shown
    assert "b" not in tags
    assert tags.count("h1") == 0


def test_long_captions_are_cut_and_bytes_of_names_stay(write):
    first = replace(sample_card.card().offenders[0], caption="word " * 100, key="\udcff.png")
    text = write(offenders=(first,))
    assert "\udcff.png" in text
    assert max(map(len, text.splitlines())) < 1000
    assert "…" in text
