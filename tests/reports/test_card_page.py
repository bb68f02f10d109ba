import re
from dataclasses import replace

import pytest

from tests.reports import sample_card
from utils.reports import card_drawings, card_page, card_tables, page_parts

PICTURES = sample_card.pictures(size=32)
SECTIONS = [
    "Worst offenders",
    "Against the base model",
    "Over training",
    "What helps here",
    "What to do next time",
    "How it was made",
    "Left out",
]


@pytest.fixture
def write(tmp_path):
    """Write a card with what a call changes; returns the text of its page."""

    def write(figure=b"\x89PNG", **changed):
        path = tmp_path / "card.html"
        shown = card_page.CardPictures(PICTURES, figure)
        card_page.write_card_page(path, sample_card.card(**changed).as_json(), shown)
        return path.read_text(encoding="utf-8", errors="surrogateescape")

    return write


def answer(**changed):
    return sample_card.answer(**changed)


def shown_texts(page, selector_class):
    """Texts of paragraphs of a class."""
    return re.findall(rf'<p class="{selector_class}">(.*?)</p>', page)


# The answer ---------------------------------------------------------------------------------------


def test_the_answer_comes_first_and_a_void_verdict_before_it(write):
    page = write()
    body = page.split("<body>")[1]
    places = [body.index(f'class="{c}"') for c in ("void", "verdict", "sentence", "detail")]
    assert places == sorted(places)
    assert places[-1] < body.index("<nav")
    assert "22 % would count as copies" in shown_texts(page, "void")[0]
    assert shown_texts(page, "sentence") == [answer().sentence]


@pytest.mark.parametrize(
    ("lo", "hi", "limit", "kind"),
    [
        (0.021, 0.05, 0.02, "over"),
        (0.02, 0.05, 0.02, "open"),
        (0.0, 0.021, 0.02, "open"),
        (0.0, 0.02, 0.02, "under"),
        (0.0, 0.02, None, "unknown"),
    ],
)
def test_the_whole_interval_decides_the_colour(write, lo, hi, limit, kind):
    share = sample_card.share((lo + hi) / 2, lo, hi, 64)
    page = write(answer=answer(share=share, max_copy_share=limit))
    assert f'class="answer is-{kind}"' in page
    assert bool(shown_texts(page, "verdict")) == (limit is not None)


def test_without_a_threshold_the_sentence_stands_alone(write):
    page = write(
        answer=answer(share=None, parts=None, threshold=None, gate=None, max_copy_share=None)
    )
    assert 'class="answer is-unknown"' in page
    assert shown_texts(page, "sentence") == [answer().sentence]
    assert not shown_texts(page, "void") + shown_texts(page, "detail")
    assert '<svg class="scale"' not in page


def test_the_details_name_threshold_parts_and_gate():
    lines = " ".join(card_tables.answer_details(sample_card.card().as_json()["answer"]))
    for words in (
        "above 0.834 (95 % interval 0.801 to 0.862)",
        "1 % of 64 held-out pictures exceed it",
        "A further 3.1 % (1.2 to 5.8) hold a part",
        "Gate failed: the lower end of the interval, 8 %, is above the limit of 2 %",
    ):
        assert words in lines


def test_a_fixed_threshold_that_is_void_leaves_no_verdict():
    given = answer()
    fixed = replace(given.threshold, calibrated=False, lo=None, hi=None)
    facts = sample_card.card(answer=replace(given, threshold=fixed)).as_json()["answer"]
    assert card_tables.void_line(facts).startswith("This verdict is void: of 64 pictures")
    innocents = replace(fixed.innocents, void=False)
    sound = replace(given, threshold=replace(fixed, innocents=innocents))
    assert card_tables.void_line(sample_card.card(answer=sound).as_json()["answer"]) == ""


def test_shares_and_times_can_be_read():
    assert card_tables.percent(0.02) == "2 %"
    assert card_tables.percent(0.0161) == "1.6 %"
    assert card_tables.percent(0.123) == "12 %"
    share = {"value": 0.016, "lo": 0.004, "hi": 0.039}
    assert card_tables.share_text(share) == "1.6 % (0.4 to 3.9)"
    assert card_tables.share_text(share | {"hi": 0.2}) == "2 % (0 to 20)"
    assert card_tables.share_text(None) is None
    assert [card_tables.duration(s) for s in (48, 720, 11100)] == ["48 s", "12 min", "3 h 5 min"]


# The whole page -----------------------------------------------------------------------------------


def test_sections_are_in_the_order_of_the_card_and_can_be_jumped_to(write):
    page = write()
    assert re.findall("<section.*?<h2>(.*?)</h2>", page) == SECTIONS
    assert re.findall('href="#(.*?)"', page) == re.findall('<section id="(.*?)"', page)
    names = re.findall(r'\bid="(.*?)"', page)
    assert len(set(names)) == len(names)


def test_a_part_that_was_left_out_has_no_section_but_a_line_with_its_reason(write):
    page = write(
        course=None,
        offenders=(),
        comparison=sample_card.record.Comparison((), ()),
        help=None,
        advice=(),
        left_out={"course": "the run has one checkpoint"},
        provenance=sample_card.record.Provenance({}, {}, {}, {}),
    )
    assert re.findall("<section.*?<h2>(.*?)</h2>", page)[-2:] == ["How it was made", "Left out"]
    assert "the run has one checkpoint" in page
    assert 'id="offenders"' not in page


def test_the_page_needs_nothing_outside_itself(write):
    page = write()
    assert not re.findall(r'\b(?:src|href)\s*=\s*"(?!data:|#)', page)
    assert not re.findall(r"url\(|@import|\bfetch\(|XMLHttpRequest", page)
    assert not re.findall(r"\sstyle=", page)  # the policy would refuse it
    assert "default-src 'none'" in page


def test_only_the_script_of_the_page_may_run(write):
    page = write()
    script = re.search(r"<script>(.*?)</script>", page, re.DOTALL)[1]
    style = re.search(r"<style>(.*?)</style>", page, re.DOTALL)[1]
    assert f"script-src 'sha256-{page_parts.sha256(script)}'" in page
    assert f"style-src 'sha256-{page_parts.sha256(style)}'" in page
    assert "'unsafe-inline'" not in page
    assert len(re.findall("<script", page)) == 1
    assert not re.findall("innerHTML|insertAdjacentHTML|document.write|eval", script)


def test_text_of_users_is_escaped_wherever_it_stands(write):
    attack = '"><b onclick="x">&'
    first = sample_card.card().offenders[0]
    returned = replace(first.returned[0], image=attack, prompt=attack)
    plain = sample_card.comparison().arms[0]
    arms = (replace(plain, label=attack, commands=(attack,)),)
    page = write(
        model=attack,
        command=attack,
        answer=answer(sentence=attack),
        offenders=(replace(first, key=attack, caption=attack, returned=(returned,)),),
        comparison=sample_card.record.Comparison(arms, (attack,)),
        help=replace(
            sample_card.helping(), finding=attack, command=attack, detectors={attack: attack}
        ),
        advice=(sample_card.record.Advice(attack, attack, attack, attack, (attack,)),),
        left_out={attack: attack},
    )
    assert "<b onclick" not in page
    assert page.count("&quot;&gt;&lt;b onclick=&quot;x&quot;&gt;&amp;") > 15


def test_a_name_that_is_not_utf8_is_written(write):
    first = replace(sample_card.card().offenders[0], key="\udcff.png")
    assert "\udcff.png" in write(offenders=(first,))


def test_each_row_shows_the_picture_its_copies_and_what_is_known(write):
    page = write()
    rows = re.findall(r'<tr role="row"><td role="cell" class="pictures">.*?</tr>', page, re.DOTALL)
    assert len(rows) == 12
    assert rows[0].count('class="pic copied"') == 4
    cells = re.findall(r'data-label="(.*?)">(.*?)</td>', rows[0])
    assert cells == [
        ("copies", "7"),
        ("its images", "8"),
        ("best score", "0.970"),
        ("near-duplicates", "3"),
        ("drawn", "160"),
        ("skipped", "0"),
    ]
    assert dict(re.findall(r'data-label="(.*?)">(.*?)</td>', rows[1]))["skipped"] == "–"
    assert "mirrored" in rows[0]


def test_a_column_that_nobody_knows_is_left_out(write):
    unknown = sample_card.record.Training(None, None, None, None)
    rows = [replace(each, training=unknown) for each in sample_card.card().offenders]
    page = write(offenders=tuple(rows))
    assert "near-duplicates" not in page.split('id="offenders"')[1].split("</thead>")[0]


def test_the_last_checkpoint_below_the_limit_is_marked(write):
    marked = re.findall(r'<th role="rowheader" scope="row">(.*?)</th>', write())
    assert [m for m in marked if "below the limit" in m] == [
        '800 <span class="mark">last one below the limit</span>'
    ]
    nowhere = replace(sample_card.course(), stop_at=None)
    assert 'class="mark"' not in write(course=nowhere)


# Drawings -----------------------------------------------------------------------------------------


def test_a_box_lies_on_its_picture_in_the_picture_s_own_pixels():
    drawn = card_drawings.outline(PICTURES["own0"], [(0, 0), (1, 0), (0.5, 0.25)])
    assert 'viewBox="0 0 32 32"' in drawn
    assert drawn.count('points="0.00,0.00 32.00,0.00 16.00,8.00"') == 2
    assert "polygon" not in card_drawings.outline(PICTURES["own0"], None)


def test_an_axis_holds_every_interval_and_the_limit():
    shares = [{"hi": 0.17}, None, {"hi": 0.02}]
    assert card_drawings.axis_top(shares, 0.02) == 0.2
    assert card_drawings.axis_top([{"hi": 0.02}], 0.3) == 0.4
    assert card_drawings.axis_top([{"hi": 1.0}], None) == 1.0
    assert card_drawings.axis_top([], None) == 0.01


def test_a_bar_is_drawn_in_shares_of_its_axis():
    share = {"value": 0.1, "lo": 0.05, "hi": 0.15}
    drawn = card_drawings.bar(share, top=0.2, limit=0.02)
    assert '<rect class="value" width="50.00%"' in drawn
    assert '<line class="interval" x1="25.00%" x2="75.00%"' in drawn
    assert '<line class="limit" x1="10.00%"' in drawn
    assert card_drawings.bar(None, top=0.2, limit=0.02) == ""
