"""How a flag is declared, parsed and refused: the only room that knows argparse.

A field declares its flag: `flag(default, *aliases, kind=..., help=...)`. From the fields of a
dataclass come the parser, the checks and the frozen options. Nothing heavy is imported, so that
--help answers at once."""

import argparse
import dataclasses
import difflib
import json
import sys
from dataclasses import field, fields

from utils.runtime.errors import UsageError

# Kinds of value -----------------------------------------------------------------------------------


def _number(convert, words, low, high, above):
    bounds = [f"above {above}"] if above is not None else []
    bounds += [f"at least {low}"] if low is not None and high is None else []
    bounds += [f"from {low} to {high}"] if high is not None else []
    accepted = " ".join([words, *bounds])

    def parse(text):
        try:
            value = convert(text)
        except ValueError:
            return None, accepted
        wrong = (low is not None and value < low) or (high is not None and value > high)
        wrong |= (
            (above is not None and value <= above)
            or value != value
            or value in (float("inf"), float("-inf"))
        )
        return (None, accepted) if wrong else (value, accepted)

    return parse


def whole(low=None, high=None):
    """A whole number within bounds, both included."""
    return _number(int, "a whole number", low, high, None)


def real(low=None, high=None, above=None):
    """A finite number within bounds; `above` excludes its bound."""
    return _number(float, "a number", low, high, above)


def text(value):
    """Any text that is not empty."""
    return value or None, "a text that is not empty"


def any_text(value):
    """Any text, the empty one too."""
    return value, "a text"


def number_or(word, low=None):
    """A number of at least `low`, or the word."""
    number, accepted = real(low), f"{word!r} or a number"
    accepted += "" if low is None else f" from {low:g}"
    return lambda value: (word if value == word else number(value)[0], accepted)


def one_of(names):
    """One name of a registry's keys or of a tuple."""
    names = sorted(names)
    return lambda value: (value if value in names else None, f"one of: {', '.join(names)}")


def truth(value):
    """true or false, as published flags are spelled that take one."""
    return {"true": True, "1": True, "false": False, "0": False}.get(value.lower()), "true or false"


def some_of(names):
    """Names of a registry, separated by commas."""

    def parse(value):
        parts = tuple(p.strip() for p in value.split(",") if p.strip())
        ok = bool(parts) and set(parts) <= set(names)
        return parts if ok else None, f"names separated by commas, of: {', '.join(sorted(names))}"

    return parse


SWITCH = object()
REQUIRED = dataclasses.MISSING


def flag(
    default=REQUIRED,
    *aliases,
    kind=text,
    help,
    repeat=False,
    several=False,
    free=False,
    secret=False,
):
    """A field with its flag. aliases: further spellings; kind: text -> (value or None, what is
    accepted), or SWITCH.

    repeat: may be given more than once; several: takes one or more values; both make a tuple;
    free: changes nothing that a run computes, so it may differ when the run is resumed; secret:
    never written anywhere."""
    meta = {
        "aliases": aliases,
        "kind": kind,
        "help": help,
        "repeat": repeat or several,
        "several": several,
        "required": default is REQUIRED,
        "free": free,
        "secret": secret,
    }
    return field(default=None if default is REQUIRED else default, metadata=meta)


def switch(*aliases, help, free=False):
    return flag(False, *aliases, kind=SWITCH, help=help, free=free)


def default_of(options, name):
    """What a field of a dataclass of flags, or of one of its objects, is when its flag is not
    given."""
    return next(option.default for option in dataclasses.fields(options) if option.name == name)


# Parsing ------------------------------------------------------------------------------------------


class _Parser(argparse.ArgumentParser):
    def error(self, message):
        raise UsageError(message)


def _spellings(option):
    name = f"--{option.name}"
    aliases = [a for a in option.metadata["aliases"] if a != name]
    return [
        *(a for a in aliases if not a.startswith("--")),
        name,
        *(a for a in aliases if a.startswith("--")),
    ]


def build_parser(options, *, description):
    """An argparse parser of a dataclass of flags; values stay text until `parse` checks them."""
    parser = _Parser(
        prog=options.script,
        description=description,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    for option in fields(options):
        meta = option.metadata
        arguments = {"dest": option.name, "default": None}
        if meta["kind"] is SWITCH:
            arguments |= {"action": "store_true", "help": meta["help"]}
        else:
            default = "required" if meta["required"] else f"default: {option.default}"
            has_default = meta["required"] or option.default not in (None, ())
            shown = f"{meta['help']} ({default})" if has_default else meta["help"]
            action = (
                {"nargs": "+"}
                if meta["several"]
                else {"action": "append"}
                if meta["repeat"]
                else {}
            )
            arguments |= action | {"help": shown.replace("%", "%%"), "metavar": option.name.upper()}
        parser.add_argument(*_spellings(option), **arguments)
    return parser


def _unknown(parser, argument):
    known = [s for action in parser._actions for s in action.option_strings]
    name = argument.split("=")[0]
    near = difflib.get_close_matches(name, known, 1)
    hint = f"did you mean {near[0]}? " if near else ""
    return UsageError(f"{argument!r} is not a flag of {parser.prog}; {hint}--help lists them")


def _value(option, given):
    if given is None:
        if option.metadata["required"]:
            raise UsageError(f"--{option.name} is required; give the {option.metadata['help']}")
        return option.default
    kind = option.metadata["kind"]
    if kind is SWITCH:
        return given
    values = []
    for item in given if option.metadata["repeat"] else [given]:
        value, accepted = kind(item)
        if value is None:
            raise UsageError(f"--{option.name}={item!r} is not accepted; takes {accepted}")
        values.append(value)
    return tuple(values) if option.metadata["repeat"] else values[0]


def parse(options, argv=None, *, description):
    """Parse argv (default: the command line) into the frozen dataclass `options`; UsageError names
    flag and value."""
    parser = build_parser(options, description=description)
    namespace, rest = parser.parse_known_args(argv)
    if rest:
        raise _unknown(parser, rest[0])
    parsed = options(**{o.name: _value(o, getattr(namespace, o.name)) for o in fields(options)})
    for secret in filter(
        None, (getattr(parsed, o.name) for o in fields(options) if o.metadata["secret"])
    ):
        # wandb records the command line
        sys.argv[:] = [word.replace(secret, "redacted") for word in sys.argv]
    parsed.check()
    return parsed


def as_dict(opts):
    """Options as JSON types, for records; what is secret is left out."""
    shown = json.loads(json.dumps(dataclasses.asdict(opts)))
    for option in fields(opts):
        if option.metadata["secret"] and shown[option.name] is not None:
            shown[option.name] = "redacted"
    return shown


def changed(opts, recorded):
    """Names of options, as declared, that differ from a record of as_dict and would change what a
    run computes."""
    current = as_dict(opts)
    return [
        o.name
        for o in fields(opts)
        if not o.metadata["free"] and o.name in recorded and current[o.name] != recorded[o.name]
    ]
