"""The options of the scripts, but for retrieval's: one frozen dataclass each, whose fields declare
the flags."""

from dataclasses import dataclass
from typing import ClassVar

from utils.cli.flags import flag, one_of, real, switch, whole
from utils.reports.tracking import TRACKERS


@dataclass(frozen=True, kw_only=True)
class CommonOptions:
    """What every script takes."""

    script: ClassVar[str] = ""

    dry_run: bool = switch(
        help="print the resolved options and every path that would be written, and stop", free=True
    )
    mixed_precision: str = flag(
        "no", kind=one_of(("no", "fp16", "bf16")), help="precision of the networks"
    )
    run_name: str = flag(None, help="name of the run", free=True)


@dataclass(frozen=True, kw_only=True)
class ReadingOptions:
    """How images are read."""

    num_workers: int = flag(
        4, "-j", "--workers", kind=whole(0), help="processes or threads that read images", free=True
    )
    max_bad_images: float = flag(
        0.01,
        kind=real(0, 1),
        help="share of unreadable images that is skipped, not an error",
        free=True,
    )


@dataclass(frozen=True, kw_only=True)
class TrackingOptions:
    """Where numbers are sent, besides files."""

    report_to: str = flag("wandb", kind=one_of(TRACKERS), help="tracker", free=True)
    wandb_project: str = flag(
        None, help="wandb project (else WANDB_PROJECT, else the published name)", free=True
    )
