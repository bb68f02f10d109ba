import pytest

from utils.cli import kinds


@pytest.mark.parametrize(
    ("kind", "accepted", "refused", "words"),
    [
        (kinds.whole(), ["-3", "0"], ["1.5", "x", ""], "a whole number"),
        (kinds.whole(1), ["1", "9"], ["0"], "a whole number at least 1"),
        (kinds.whole(1, 9), ["1", "9"], ["0", "10"], "a whole number from 1 to 9"),
        (
            kinds.count(1, 100),
            ["1", "100"],
            ["0", "101", "99999999999999999999", "9" * 5000],
            "a whole number at least 1 and at most 100",
        ),
        (
            kinds.SEED,
            ["0", str(2**64 - 1)],
            [str(2**64)],
            f"a whole number at least 0 and at most {2**64 - 1}",
        ),
        (
            kinds.NAME,
            ["a/b"],
            ["", "ä" * 101],
            "a text of at most 200 bytes that is not empty",
        ),
        (kinds.real(), ["-1e3", "0"], ["nan", "inf", "-inf"], "a number"),
        (kinds.real(0, 1), ["0", "1"], ["-1e-9", "1.1"], "a number from 0 to 1"),
        (kinds.real(0, below=1), ["0", "0.999"], ["1", "-1"], "a number from 0 to below 1"),
        (kinds.real(above=0), ["1e-9"], ["0"], "a number above 0"),
        (kinds.real(above=0, high=1), ["1e-9", "1"], ["0", "1.1"], "a number above 0, up to 1"),
        (
            kinds.number_or("auto", low=0),
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


def test_a_path_with_a_tilde_is_the_users_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert kinds.PATH.parse("~/runs/x") == str(tmp_path / "runs" / "x")
    assert kinds.PATH.parse("~") == str(tmp_path)
    assert kinds.PATH.parse("a/~b") == "a/~b"
    assert kinds.PATH.parse("") is None


def test_a_path_that_no_system_looks_up_is_refused_with_the_reason(tmp_path):
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for path, reason in ((tmp_path / "loop" / "x", "symbolic links"), ("a" * 5000, "too long")):
        with pytest.raises(ValueError, match=reason):
            kinds.PATH.parse(str(path))
    for path in ("/dev/null/x", str(tmp_path / "absent"), "owner/name", "https://h/" + "a" * 5000):
        assert kinds.PATH.parse(path) == path
