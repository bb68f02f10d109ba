"""How a flag is declared, parsed, recorded and described by --help; the only module that uses
argparse.

A field of an options class declares a flag: `flag(default, *aliases, kind=..., help=...)`. The
fields of a class give the parser, the checks, the page of --help and the frozen options. Nothing
heavy is imported, so that --help answers at once."""

import argparse
import dataclasses
import difflib
import json
import os
import sys
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, NoReturn, TypeVar

from utils.cli import given_paths
from utils.cli.kinds import PATH, SWITCH, TEXT, Kind
from utils.runtime.errors import UsageError

REQUIRED = dataclasses.MISSING
OTHER = "other"
LONGEST_SHOWN = 200  # letters of a value in an error


def flag(
    default: Any = REQUIRED,
    *aliases: str,
    kind: Kind = TEXT,
    help: str,
    group: str = OTHER,
    unset: str = "not set",
    repeat: bool = False,
    several: bool = False,
    bare: str | None = None,
    may_change_on_resume: bool = False,
    secret: bool = False,
    launcher: str | None = None,
) -> Any:
    """A field of an options class, with its flag.

    default: value when the flag is not given; without one, the flag is required.
    aliases: further spellings of the flag.
    kind, help: which values are accepted; what the flag means, beginning with a noun.
    group, unset: its title in --help; what is shown there as the default where that is None.
    repeat, several: the flag may be given more than once, or takes several values; a tuple.
    bare: the text that it stands for when it is given without a value; None: it needs one.
    may_change_on_resume: whether a resumed run may have another value, as it changes no result.
    secret: the value is never written anywhere.
    launcher: variable of accelerate launch whose value an unset flag takes."""
    meta = {
        "aliases": aliases,
        "kind": kind,
        "help": help,
        "group": group,
        "unset": unset,
        "repeat": repeat or several,
        "several": several,
        "bare": bare,
        "required": default is REQUIRED,
        "may_change_on_resume": may_change_on_resume,
        "secret": secret,
        "launcher": launcher,
    }
    return field(default=default, metadata=meta)


def switch(*aliases: str, help: str, group: str = OTHER, may_change_on_resume: bool = False) -> Any:
    """A flag without a value: False, and True when it is given."""
    return flag(
        False,
        *aliases,
        kind=SWITCH,
        help=help,
        group=group,
        may_change_on_resume=may_change_on_resume,
    )


@dataclass(frozen=True, kw_only=True)
class Options:
    """Base of the options of a script. A subclass declares the flags, and checks flags that depend
    on each other."""

    script: ClassVar[str] = ""  # as a user calls it: diff_train.py
    groups: ClassVar[tuple[str, ...]] = ()  # titles of --help, in their order
    example: ClassVar[str] = ""  # flags of an example command, shown at the end of --help
    recorded_first: ClassVar[tuple[str, ...]] = ()  # fields with which a record begins

    def check(self) -> None:
        """Raise UsageError where flags contradict each other."""


AnyOptions = TypeVar("AnyOptions", bound=Options)


def default_of(options: Options | type[Options], name: str) -> Any:
    """Value of a field when its flag is not given. options: an options class, or its object."""
    return next(option.default for option in fields(options) if option.name == name)


def given(options: Options, names: Iterable[str]) -> list[str]:
    """Names of the fields among `names` whose value is not the default."""
    return [name for name in names if getattr(options, name) != default_of(options, name)]


# --help -------------------------------------------------------------------------------------------


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(message)


class _HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """argparse's formatter, but the value of a flag with several spellings is shown once."""

    def _format_action_invocation(self, action: argparse.Action) -> str:
        spellings = ", ".join(action.option_strings)
        return spellings if action.nargs == 0 else f"{spellings} {self._format_args(action, '')}"


class _PrintVersion(argparse.Action):
    """--version: print one line and exit with status 0."""

    def __call__(self, parser, namespace, values, option_string=None):
        from utils.cli import version  # asks git for the commit

        print(version.describe())
        parser.exit()


def _spellings(option: dataclasses.Field) -> list[str]:
    name = f"--{option.name}"
    aliases = [alias for alias in option.metadata["aliases"] if alias != name]
    short = [alias for alias in aliases if not alias.startswith("--")]
    return [*short, name, *(alias for alias in aliases if alias.startswith("--"))]


def _shown_default(option: dataclasses.Field) -> str:
    if option.metadata["required"]:
        return "required"
    if option.metadata["kind"] is SWITCH:
        return "default: off"
    shown = option.metadata["unset"] if option.default in (None, ()) else option.default
    return f"default: {str(shown).lower() if isinstance(shown, bool) else shown}"


def _argument(option: dataclasses.Field) -> dict[str, Any]:
    """The keyword arguments of argparse's add_argument for a field."""
    meta, kind = option.metadata, option.metadata["kind"]
    alone = None if meta["bare"] is None else f"without a value: {meta['bare']}"
    notes = "; ".join(filter(None, (kind.bounds, alone, _shown_default(option))))
    argument = {
        "dest": option.name,
        "default": None,
        "help": f"{meta['help']} ({notes})".replace("%", "%%"),
    }
    if kind is SWITCH:
        return argument | {"action": "store_true"}
    argument |= {"metavar": kind.metavar}
    if meta["several"]:
        return argument | {"nargs": "+"}
    if meta["bare"] is not None:
        return argument | {"nargs": "?", "const": meta["bare"]}
    return argument | {"action": "append"} if meta["repeat"] else argument


def _usage(options: type[Options]) -> str:
    """The line of --help that shows the required flags."""
    required = [
        f"--{option.name} {option.metadata['kind'].metavar}"
        for option in fields(options)
        if option.metadata["required"]
    ]
    return " ".join([options.script, *required, "[flag ...]"])


def example_command(options: type[Options]) -> str:
    """The example at the end of --help: a shell command, on several lines where it is long."""
    script = options.script if " " in options.script else f"python {options.script}"
    lines = textwrap.wrap(
        f"{script} {options.example}", 90, break_long_words=False, break_on_hyphens=False
    )
    return " \\\n    ".join(lines)


def build_parser(options: type[Options], *, description: str | None) -> argparse.ArgumentParser:
    """An argparse parser of an options class; values stay text until `parse` checks them."""
    parser = _Parser(
        prog=options.script,
        usage=_usage(options),
        description=description,
        epilog=options.example and f"example:\n  {example_command(options)}",
        allow_abbrev=False,
        formatter_class=_HelpFormatter,
    )
    parser.add_argument(
        "--version", action=_PrintVersion, nargs=0, help="show the version and the commit, and exit"
    )
    titles = dict.fromkeys([*options.groups, *(o.metadata["group"] for o in fields(options))])
    for title in titles:
        group = parser.add_argument_group(title)
        for option in fields(options):
            if option.metadata["group"] == title:
                group.add_argument(*_spellings(option), **_argument(option))
    return parser


# Parsing ------------------------------------------------------------------------------------------


def _unknown(parser: argparse.ArgumentParser, argument: str) -> UsageError:
    known = [spelling for action in parser._actions for spelling in action.option_strings]
    near = difflib.get_close_matches(argument.split("=")[0], known, 1)
    hint = f"did you mean {near[0]}? " if near else ""
    return UsageError(f"{argument!r} is not a flag of {parser.prog}; {hint}--help lists all flags")


def _parse_one(option: dataclasses.Field, text: str) -> Any:
    kind, reason = option.metadata["kind"], ""
    try:
        value = kind.parse(text)
    except ValueError as error:
        value, reason = None, f" ({error})"
    if value is None:
        shown = _shortened(text)
        raise UsageError(f"--{option.name}={shown} is not accepted{reason}; use {kind.accepted}")
    return value


def _shortened(text: str) -> str:
    """A value as an error shows it."""
    if len(text) <= LONGEST_SHOWN:
        return repr(text)
    return f"{text[:LONGEST_SHOWN]!r}... ({len(text)} letters)"


def _value(option: dataclasses.Field, given: Any) -> Any:
    """The value of a field from argparse's value: None, a text, a list of texts or True."""
    if given is None:
        if option.metadata["launcher"] and os.environ.get(option.metadata["launcher"]):
            return _launched(option, option.metadata["launcher"])
        if option.metadata["required"]:
            raise UsageError(f"--{option.name} is required; give the {option.metadata['help']}")
        return option.default
    if option.metadata["kind"] is SWITCH:
        return given
    if option.metadata["repeat"]:
        return tuple(_parse_one(option, text) for text in given)
    return _parse_one(option, given)


def _launched(option: dataclasses.Field, variable: str) -> Any:
    """The value that accelerate launch gives a flag; UsageError if it is not accepted."""
    text, kind = os.environ[variable], option.metadata["kind"]
    value = kind.parse(text)
    if value is None:
        raise UsageError(
            f"accelerate launch says {variable}={_shortened(text)}, which --{option.name} does not"
            f" accept; give --{option.name} {kind.accepted}"
        )
    return value


def launched(opts: Options) -> list[tuple[str, str, Any]]:
    """The flags that take a value of accelerate launch where they are not given: (name, the
    launcher's variable, value)."""
    return [
        (option.name, option.metadata["launcher"], getattr(opts, option.name))
        for option in fields(opts)
        if option.metadata["launcher"]
    ]


def _hide_secrets(opts: Options) -> None:
    """Replace secret values in sys.argv, since wandb records the command line."""
    for option in fields(opts):
        value = getattr(opts, option.name)
        if option.metadata["secret"] and value:
            sys.argv[:] = [word.replace(value, "redacted") for word in sys.argv]


def _paths(opts: Options) -> list[tuple[str, str]]:
    """The paths among the values: (name of the flag, path)."""
    found = []
    for option in fields(opts):
        if option.metadata["kind"] is PATH:
            value = getattr(opts, option.name)
            paths = value if isinstance(value, tuple) else (value,)
            found += [(option.name, path) for path in paths if path is not None]
    return found


def parse(
    options: type[AnyOptions], argv: Sequence[str] | None = None, *, description: str | None
) -> AnyOptions:
    """Parse a command line into the frozen dataclass `options`.

    argv: words after the script's name (default: those of the process).
    description: first lines of --help.
    Raises: UsageError, which names the flag, its value and what is accepted.
    """
    parser = build_parser(options, description=description)
    namespace, rest = parser.parse_known_args(argv)
    if rest:
        raise _unknown(parser, rest[0])
    opts = options(**{o.name: _value(o, getattr(namespace, o.name)) for o in fields(options)})
    _hide_secrets(opts)
    given_paths.remember(_paths(opts))
    opts.check()
    return opts


# Words of a command line --------------------------------------------------------------------------


def words_of(values: Mapping[str, Any], declared: type[Options]) -> list[str]:
    """The words of a command line that gives flags these values; a flag at its default has none.

    values: {name of a field: value}, as `as_dict` records them or as the options hold them.
    declared: the options class that has these fields; other names are left out."""
    words = []
    for option in fields(declared):
        value = values.get(option.name)
        value = tuple(value) if isinstance(value, list) else value
        if value is not None and value != option.default:
            words += _words_of_one(option, value)
    return words


def _short(value: Any) -> float | None:
    """A float as six digits tell it; None for other values."""
    return float(f"{value:g}") if isinstance(value, float) else None


def _words_of_one(option: dataclasses.Field, value: Any) -> list[str]:
    name = f"--{option.name}"
    if option.metadata["kind"] is SWITCH:
        return [name]
    if not isinstance(value, tuple):
        return [name, f"{value:g}" if value == _short(value) else str(value)]
    if option.metadata["several"]:
        return [name, *map(str, value)]
    if option.metadata["repeat"]:
        return [word for text in value for word in (name, str(text))]
    return [name, ",".join(map(str, value))]


# Records ------------------------------------------------------------------------------------------


def as_dict(opts: Options) -> dict[str, Any]:
    """Options as JSON types, for records: those of `recorded_first`, then the others in the order
    of declaration; a secret is "redacted"."""
    values = json.loads(json.dumps(dataclasses.asdict(opts)))
    shown = {name: values[name] for name in (*opts.recorded_first, *values)}
    for option in fields(opts):
        if option.metadata["secret"] and shown[option.name] is not None:
            shown[option.name] = "redacted"
    return shown


def changed(opts: Options, recorded: Mapping[str, Any]) -> list[str]:
    """Names of options that differ from a record and would change what a run computes.

    recorded: what `as_dict` gave when the run was started. An option that the record does not have
    was added later, and the run had its default."""
    current = as_dict(opts)
    return [
        option.name
        for option in fields(opts)
        if not option.metadata["may_change_on_resume"]
        and current[option.name] != recorded.get(option.name, _recorded_default(option))
    ]


def _recorded_default(option: dataclasses.Field) -> Any:
    return json.loads(json.dumps(None if option.metadata["required"] else option.default))
