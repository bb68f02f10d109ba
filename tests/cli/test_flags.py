import dataclasses
from dataclasses import dataclass

import pytest

from utils.cli import flags
from utils.runtime.errors import UsageError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """x.py"""

    script = "x.py"

    count: int = flags.flag(3, "-c", kind=flags.whole(1), help="a count")
    share: float = flags.flag(0.5, kind=flags.real(0, 1), help="a share")
    names: tuple = flags.flag(None, kind=flags.some_of(("a", "b")), help="names")
    word: str = flags.flag(help="word")
    loud: bool = flags.switch(help="loud")

    def check(self):
        """Nothing here depends on two flags."""


def parse(*argv):
    return flags.parse(Options, ["--word", "w", *argv], description="")


def test_defaults_aliases_and_kinds():
    assert parse() == Options(count=3, share=0.5, names=None, word="w", loud=False)
    assert parse("-c", "7", "--share=0.25", "--names", "b, a", "--loud") == Options(
        count=7, share=0.25, names=("b", "a"), word="w", loud=True
    )


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--count", "0"], "--count='0' is not accepted; takes a whole number at least 1"),
        (["-c", "1.5"], "--count='1.5' is not accepted; takes a whole number at least 1"),
        (["--share", "inf"], "--share='inf' is not accepted; takes a number from 0 to 1"),
        (
            ["--names", "a,c"],
            "--names='a,c' is not accepted; takes names separated by commas, of: a, b",
        ),
        (["--names", ","], "--names=',' is not accepted"),
        (["--word", ""], "--word='' is not accepted; takes a text that is not empty"),
        # never guessed: --coun may be a typo
        (["--coun", "1"], "'--coun' is not a flag of x.py; did you mean --count?"),
        (["stray"], "'stray' is not a flag of x.py"),
    ],
)
def test_refusals(argv, message):
    with pytest.raises(UsageError) as error:
        parse(*argv)
    assert message in str(error.value)


def test_bounds_that_exclude():
    assert flags.real(above=0)("0")[0] is None
    assert flags.real(above=0, high=1)("1")[0] == 1.0
    assert flags.real(above=0)("1e-9")[0] == 1e-9


def test_help_lists_every_flag_with_its_default(capsys):
    with pytest.raises(SystemExit) as stopped:
        parse("--help")
    assert stopped.value.code == 0
    out = capsys.readouterr().out
    for part in ("-c", "--count", "a count (default: 3)", "word (required)", "--loud"):
        assert part in out


def test_secrets_are_in_no_record_and_free_options_do_not_count_as_changed():
    @dataclass(frozen=True)
    class Some:
        script = "some.py"
        token: str = flags.flag(None, help="secret", free=True, secret=True)
        rate: float = flags.flag(1.0, kind=flags.real(), help="rate")
        log: int = flags.flag(1, kind=flags.whole(), help="rows", free=True)

        def check(self):
            pass

    recorded = flags.as_dict(Some(token="hf_x", rate=2.0, log=5))
    assert recorded == {"token": "redacted", "rate": 2.0, "log": 5}
    assert flags.changed(Some(rate=3.0, log=9), recorded) == ["rate"]
    assert flags.changed(Some(rate=2.0, log=9), recorded) == []
    assert flags.as_dict(Some())["token"] is None
