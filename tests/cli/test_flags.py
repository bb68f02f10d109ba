import dataclasses
import re
import shlex
import tomllib
from dataclasses import dataclass

import pytest

from tests.conftest import ROOT
from utils.cli import flags, kinds
from utils.runtime.errors import UsageError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(flags.Options):
    """x.py"""

    script = "x.py"
    groups = ("numbers", "texts")
    example = "--word w --count 7"

    count: int = flags.flag(3, "-c", kind=kinds.whole(1), group="numbers", help="a count")
    share: float = flags.flag(0.5, kind=kinds.real(0, 1), group="numbers", help="a share")
    names: tuple | None = flags.flag(
        None, kind=kinds.some_of(("a", "b")), unset="all of them", help="names"
    )
    way: str = flags.flag("up", "-w", kind=kinds.one_of(("up", "down")), help="way")
    word: str = flags.flag(help="word", group="texts")
    loud: bool = flags.switch(help="loud", group="texts")


def parse(*argv):
    return flags.parse(Options, ["--word", "w", *argv], description="")


def test_defaults_aliases_and_kinds():
    assert parse() == Options(count=3, share=0.5, names=None, way="up", word="w", loud=False)
    assert parse("-c", "7", "--share=0.25", "--names", "b, a", "--loud") == Options(
        count=7, share=0.25, names=("b", "a"), word="w", loud=True
    )


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--count", "0"], "--count='0' is not accepted; use a whole number at least 1"),
        (["-c", "1.5"], "--count='1.5' is not accepted; use a whole number at least 1"),
        (["--share", "inf"], "--share='inf' is not accepted; use a number from 0 to 1"),
        (
            ["--names", "a,c"],
            "--names='a,c' is not accepted; use names separated by commas, of: a, b",
        ),
        (["--names", ","], "--names=',' is not accepted"),
        (["--word", ""], "--word='' is not accepted; use a text that is not empty"),
        # never guessed: --coun may be a typo
        (["--coun", "1"], "'--coun' is not a flag of x.py; did you mean --count?"),
        (["stray"], "'stray' is not a flag of x.py"),
    ],
)
def test_refusals(argv, message):
    with pytest.raises(UsageError) as error:
        parse(*argv)
    assert message in str(error.value)


def help_page(capsys):
    with pytest.raises(SystemExit) as stopped:
        parse("--help")
    assert stopped.value.code == 0
    return capsys.readouterr().out


def test_help_lists_every_flag_with_its_bounds_and_default(capsys):
    out = help_page(capsys)
    for part in (
        "usage: x.py --word TEXT [flag ...]",
        "-c, --count N ",
        "a count (at least 1; default: 3)",
        "a share (from 0 to 1; default: 0.5)",
        "names (names separated by commas, of: a, b; default: all of them)",
        "word (required)",
        "loud (default: off)",
        "--loud",
    ):
        assert part in " ".join(out.split()), part


def test_help_shows_a_closed_choice_once_beside_its_flag(capsys):
    assert "-w, --way {down,up}" in help_page(capsys)


def test_help_has_titled_groups_in_their_order_and_an_example_at_the_end(capsys):
    out = help_page(capsys)
    titles = [line for line in out.splitlines() if line.endswith(":") and line[0] != " "]
    assert titles == ["options:", "numbers:", "texts:", "other:", "example:"]
    assert out.index("numbers:") < out.index("--count") < out.index("texts:")
    assert out.endswith("example:\n  python x.py --word w --count 7\n")


def test_a_long_example_is_a_shell_command_on_several_lines():
    class Long(Options):
        example = "--word w " + " ".join(f"--count {number}" for number in range(20))

    shown = flags.example_command(Long)
    assert max(map(len, shown.splitlines())) <= 100
    assert shlex.split(shown.replace("\\\n", "")) == ["python", "x.py", *Long.example.split()]


def test_version_is_a_line_with_the_project_and_the_commit(capsys):
    with pytest.raises(SystemExit) as stopped:
        parse("--version")
    assert stopped.value.code == 0
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    line = capsys.readouterr().out
    assert re.fullmatch(r"diffrep \d+\.\d+\.\d+ \(commit ([0-9a-f]{40}\+?|unknown)\)\n", line)
    assert line.split()[:2] == [project["name"], project["version"]]


def test_given_names_the_flags_that_are_not_at_their_default():
    assert flags.given(parse("--share", "0.5", "--loud", "-c", "4"), ("share", "count", "way")) == [
        "count"
    ]


def test_secrets_are_in_no_record_and_options_that_may_change_do_not_count_as_changed():
    @dataclass(frozen=True)
    class Some(flags.Options):
        token: str | None = flags.flag(None, help="secret", may_change_on_resume=True, secret=True)
        rate: float = flags.flag(1.0, kind=kinds.real(), help="rate")
        log: int = flags.flag(1, kind=kinds.whole(), help="rows", may_change_on_resume=True)

    recorded = flags.as_dict(Some(token="hf_x", rate=2.0, log=5))
    assert recorded == {"token": "redacted", "rate": 2.0, "log": 5}
    assert flags.changed(Some(rate=3.0, log=9), recorded) == ["rate"]
    assert flags.changed(Some(rate=2.0, log=9), recorded) == []
    assert flags.as_dict(Some())["token"] is None


def test_an_option_that_a_record_does_not_have_had_its_default():
    @dataclass(frozen=True)
    class Later(flags.Options):
        rate: float = flags.flag(1.0, kind=kinds.real(), help="rate")
        share: float = flags.flag(0.0, kind=kinds.real(), help="a flag of a later version")

    assert flags.changed(Later(), {"rate": 1.0}) == []
    assert flags.changed(Later(share=0.1), {"rate": 1.0}) == ["share"]


def test_words_of_a_command_line_give_the_same_options():
    given = parse("-c", "7", "--share=0.25", "--names", "b,a", "--loud", "--way", "down")
    words = flags.words_of(flags.as_dict(given), Options)
    assert words == shlex.split("--count 7 --share 0.25 --names b,a --way down --word w --loud")
    assert flags.parse(Options, words, description="") == given
    assert flags.words_of({"count": 3, "names": None, "unknown": 1}, Options) == []
    # numbers as a reader would write them, and none is rounded
    assert flags.words_of({"share": 1e-05}, Options) == ["--share", "1e-05"]
    assert flags.words_of({"share": 0.123456789}, Options) == ["--share", "0.123456789"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Launched(flags.Options):
    """x.py"""

    precision: str = flags.flag(
        "no", kind=kinds.one_of(("no", "bf16")), help="precision", launcher="ACCELERATE_PRECISION"
    )


def test_a_flag_that_is_not_given_takes_the_launchers_value_and_records_it(monkeypatch):
    def parsed(*argv):
        return flags.parse(Launched, argv, description="")

    assert parsed().precision == "no"
    monkeypatch.setenv("ACCELERATE_PRECISION", "bf16")
    assert flags.as_dict(parsed()) == {"precision": "bf16"}
    assert flags.launched(parsed()) == [("precision", "ACCELERATE_PRECISION", "bf16")]
    assert parsed("--precision", "no").precision == "no"
    monkeypatch.setenv("ACCELERATE_PRECISION", "fp8")
    with pytest.raises(UsageError) as error:
        parsed()
    assert str(error.value) == (
        "accelerate launch says ACCELERATE_PRECISION='fp8', which --precision does not accept; give"
        " --precision one of: bf16, no"
    )
    assert parsed("--precision", "no").precision == "no"
