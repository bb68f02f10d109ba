"""Settings of `accelerate launch` and of its configuration file, which it hands to a script by
environment variables: which are taken, which are contradicted, and which end the command."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from utils.runtime.errors import UsageError

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
# the Accelerator would count micro-batches by it, as the trainer does already
COUNTS = "ACCELERATE_GRADIENT_ACCUMULATION_STEPS"
WHOLE = (
    "here every process holds the whole model; choose distributed_type MULTI_GPU, MULTI_CPU or NO"
)


@dataclass(frozen=True)
class Refused:
    """A setting that this toolkit does not carry out, and that would change memory, speed or the
    result if somebody relied on it."""

    variable: str
    reason: str  # why, and what to choose instead
    details: tuple[str, ...] = ()  # variables that say more of it


REFUSED = (
    Refused(
        "ACCELERATE_USE_FSDP",
        f"FSDP divides a model; {WHOLE}",
        ("FSDP_VERSION", "FSDP_OFFLOAD_PARAMS", "FSDP_ACTIVATION_CHECKPOINTING"),
    ),
    Refused(
        "ACCELERATE_USE_DEEPSPEED",
        f"DeepSpeed divides a model; {WHOLE}",
        (
            "ACCELERATE_DEEPSPEED_CONFIG_FILE",
            "ACCELERATE_DEEPSPEED_ZERO_STAGE",
            "ACCELERATE_DEEPSPEED_OFFLOAD_OPTIMIZER_DEVICE",
            "ACCELERATE_DEEPSPEED_OFFLOAD_PARAM_DEVICE",
        ),
    ),
    Refused("ACCELERATE_USE_MEGATRON_LM", f"Megatron-LM divides a model; {WHOLE}"),
    Refused(
        "ACCELERATE_USE_PARALLELISM_CONFIG",
        f"parallelism_config divides models and images; {WHOLE}, without parallelism_config",
        tuple(
            f"PARALLELISM_CONFIG_{kind}_SIZE"
            for kind in ("DP_REPLICATE", "DP_SHARD", "TP", "CP", "SP")
        ),
    ),
    Refused(
        "ACCELERATE_DYNAMO_BACKEND",
        "give --compile, where the script has it, instead of dynamo_config",
        (
            "ACCELERATE_DYNAMO_MODE",
            "ACCELERATE_DYNAMO_USE_FULLGRAPH",
            "ACCELERATE_DYNAMO_USE_DYNAMIC",
            "ACCELERATE_DYNAMO_USE_REGIONAL_COMPILATION",
        ),
    ),
)


def _chosen(variable: str) -> str | None:
    """The value of a variable that somebody chose, or None."""
    value = os.environ.get(variable, "")
    on = variable.startswith("ACCELERATE_USE_") and value == "1"
    return value if on or value.lower() not in UNCHOSEN else None


def require_possible() -> None:
    """Raise UsageError for a setting that is not carried out, with its name and its value."""
    for each in REFUSED:
        if _chosen(each.variable) is None:
            continue
        names = [each.variable, *(name for name in each.details if _chosen(name) is not None)]
        shown = [f"{name}={os.environ[name]!r}" for name in names]
        raise UsageError(
            f"accelerate launch says {', '.join(shown)}: {each.reason} (accelerate config, or"
            " --config_file with another file)"
        )


def notes(used: Iterable[tuple[str, str, Any]]) -> list[str]:
    """Lines about the launcher's settings: one for each that is taken or contradicted, one for all
    that this script has no use for. UsageError as `require_possible`.

    used: (name of a flag, the variable that it takes if it is not given, its value)."""
    require_possible()
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
def without_counts() -> Iterator[None]:
    """Hide COUNTS from accelerate until the end of the block."""
    hidden = {name: os.environ.pop(name) for name in (COUNTS,) if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(hidden)
