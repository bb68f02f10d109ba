import pytest

from utils.cli import kinds


@pytest.mark.parametrize(
    ("kind", "accepted", "refused", "words"),
    [
        (kinds.whole(), ["-3", "0"], ["1.5", "x", ""], "a whole number"),
        (kinds.whole(1), ["1", "9"], ["0"], "a whole number at least 1"),
        (kinds.whole(1, 9), ["1", "9"], ["0", "10"], "a whole number from 1 to 9"),
        (kinds.real(), ["-1e3", "0"], ["nan", "inf", "-inf"], "a number"),
        (kinds.real(0, 1), ["0", "1"], ["-1e-9", "1.1"], "a number from 0 to 1"),
        (kinds.real(0, below=1), ["0", "0.999"], ["1", "-1"], "a number from 0 to below 1"),
        (kinds.real(above=0), ["1e-9"], ["0"], "a number above 0"),
        (kinds.real(above=0, high=1), ["1e-9", "1"], ["0", "1.1"], "a number above 0, up to 1"),
        (
            kinds.number_or("auto", 0),
            ["auto", "0"],
            ["-1", "soon"],
            "'auto' or a number at least 0",
        ),
        (kinds.one_of(("b", "a")), ["a", "b"], ["c", ""], "one of: a, b"),
        (
            kinds.some_of(("b", "a")),
            ["a", "b, a"],
            ["a,c", ","],
            "names separated by commas, of: a, b",
        ),
        (kinds.TRUTH, ["true", "False", "0", "1"], ["perhaps"], "true or false"),
        (kinds.TEXT, ["x"], [""], "a text that is not empty"),
        (kinds.ANY_TEXT, ["x", ""], [], "a text"),
    ],
    ids=lambda value: value.accepted if isinstance(value, kinds.Kind) else "",
)
def test_what_a_kind_accepts_and_how_it_says_so(kind, accepted, refused, words):
    assert [text for text in accepted if kind.parse(text) is None] == []
    assert [text for text in refused if kind.parse(text) is not None] == []
    assert kind.accepted == words


def test_values_have_the_type_of_their_kind():
    assert kinds.whole().parse("3") == 3
    assert kinds.real().parse("3") == 3.0
    assert kinds.number_or("auto").parse("auto") == "auto"
    assert kinds.number_or("auto").parse("2") == 2.0
    assert kinds.some_of(("a", "b")).parse("b, a") == ("b", "a")
    assert kinds.TRUTH.parse("0") is False
