"""Settings of `accelerate launch`, which it hands to a script by environment variables: which are
taken, contradicted or not used."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from typing import Any

PREFIX = "ACCELERATE_"
# values by which the launcher says that nobody chose the setting, in lower case
UNCHOSEN = ("", "no", "none", "false", "0", "1", "default")
# what holds here whoever reads it: where the processes run, and output for developers
HOLDS = (
    "ACCELERATE_USE_CPU",
    "ACCELERATE_CPU_AFFINITY",
    "ACCELERATE_TORCH_DEVICE",
    "ACCELERATE_IN_TPU_POD",
    "ACCELERATE_DEBUG_MODE",
    "ACCELERATE_DEBUG_RDV_FILE",
)
# settings by which accelerate itself would start other machinery than this toolkit trains with
SWITCHES = (
    "ACCELERATE_USE_DEEPSPEED",
    "ACCELERATE_USE_FSDP",
    "ACCELERATE_USE_MEGATRON_LM",
    "ACCELERATE_USE_PARALLELISM_CONFIG",
    "ACCELERATE_GRADIENT_ACCUMULATION_STEPS",
)


def _chosen(variable: str) -> str | None:
    """The value of a variable that somebody chose, or None."""
    value = os.environ.get(variable, "")
    on = variable.startswith("ACCELERATE_USE_") and value == "1"
    return value if on or value.lower() not in UNCHOSEN else None


def notes(used: Iterable[tuple[str, str, Any]]) -> list[str]:
    """Lines about the launcher's settings: one for each that is taken or contradicted, one for all
    that are not used.

    used: (name of a flag, the variable that it takes if it is not given, its value)."""
    lines, read = [], set(HOLDS)
    for flag, variable, value in used:
        read.add(variable)
        launched = _chosen(variable)
        if launched is None:
            continue
        if launched == str(value):
            lines.append(f"--{flag}={value}, as accelerate launch says ({variable})")
        else:
            lines.append(
                f"--{flag}={value} is used; accelerate launch says {launched} ({variable})"
            )
    unread = sorted(name for name in os.environ if name.startswith(PREFIX) and name not in read)
    unused = [f"{name}={os.environ[name]}" for name in unread if _chosen(name) is not None]
    if unused:
        lines.append(
            f"settings of accelerate launch that are not used: {', '.join(unused)}; flags of this"
            " script decide (--help)"
        )
    return lines


@contextlib.contextmanager
def without_switches() -> Iterator[None]:
    """Hide SWITCHES from accelerate until the end of the block."""
    hidden = {name: os.environ.pop(name) for name in SWITCHES if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(hidden)
