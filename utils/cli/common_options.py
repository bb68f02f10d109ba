"""The flags that several scripts share."""

from dataclasses import dataclass

from utils.cli.flags import Options, flag, switch
from utils.cli.kinds import NAME, PATH, count, one_of, real
from utils.data.field_names import CAPTIONS as CAPTION_NAMES
from utils.data.field_names import IMAGES as IMAGE_NAMES
from utils.data.field_names import Columns
from utils.reports.tracking import TRACKERS

# titles of --help
MODEL = "model"
RUNNING = "running"
READING = "reading images"
COLUMNS = "columns of captions files"
SPEED = "precision and speed"
TRACKING = "tracking"


@dataclass(frozen=True, kw_only=True)
class CommonOptions(Options):
    """Flags of every stage script."""

    dry_run: bool = switch(
        group=RUNNING,
        help="preview: print the resolved options and every path that would be written, then stop",
        may_change_on_resume=True,
    )
    mixed_precision: str = flag(
        "no",
        kind=one_of(("no", "fp16", "bf16")),
        group=SPEED,
        help=(
            "precision of the networks; no is float32; without the flag, that of accelerate launch"
        ),
        launcher="ACCELERATE_MIXED_PRECISION",
    )
    run_name: str | None = flag(
        None,
        kind=NAME,
        group=TRACKING,
        help="name of the run",
        unset="a name of the script or the tracker",
        may_change_on_resume=True,
    )


@dataclass(frozen=True, kw_only=True)
class ModelOptions(Options):
    """Flags of scripts that load a model: which of its files are read."""

    # a resumed run compares the weights by their content
    variant: str | None = flag(
        None,
        kind=NAME,
        group=MODEL,
        help="variant of the weights, as in model.fp16.safetensors",
        unset="files without a variant, or the only one that is there",
        may_change_on_resume=True,
    )
    config: str | None = flag(
        None,
        kind=PATH,
        group=MODEL,
        help="configuration of a model in one file: a pipeline folder or a name on the hub",
        unset="as diffusers finds it on the hub",
        may_change_on_resume=True,
    )
    unet: str | None = flag(
        None,
        kind=PATH,
        group=MODEL,
        help=(
            "network in the place of the model's U-Net or transformer: its folder, such as"
            " checkpoint-500/unet of a trainer of diffusers"
        ),
        unset="the model's own",
        may_change_on_resume=True,
    )


@dataclass(frozen=True, kw_only=True)
class ReadingOptions(Options):
    """Flags of scripts that read images."""

    num_workers: int = flag(
        4,
        "-j",
        "--workers",
        kind=count(0, 1000),
        group=READING,
        help="number of processes or threads that read images; 0 reads in the main process",
        may_change_on_resume=True,
    )
    max_bad_images: float = flag(
        0.01,
        kind=real(0, 1),
        group=READING,
        help=(
            "share of the images that may be unreadable and are skipped; more is an error, but one"
            " unreadable image is always accepted"
        ),
        may_change_on_resume=True,
    )


@dataclass(frozen=True, kw_only=True)
class ColumnOptions(Options):
    """Flags of scripts that read captions files."""

    caption_column: str | None = flag(
        None,
        group=COLUMNS,
        help="column of the captions in captions files, metadata and lists of prompts",
        unset=f"a usual name: {', '.join(CAPTION_NAMES[:4])} ...",
        may_change_on_resume=True,
    )
    image_column: str | None = flag(
        None,
        group=COLUMNS,
        help="column of the images' paths in captions files and metadata",
        unset=f"a usual name: {', '.join(IMAGE_NAMES[:4])} ...",
        may_change_on_resume=True,
    )

    @property
    def columns(self) -> Columns:
        """The columns that the flags name."""
        return Columns(self.caption_column, self.image_column)


@dataclass(frozen=True, kw_only=True)
class TrackingOptions(Options):
    """Flags of scripts that report to a tracker, besides writing files."""

    report_to: str = flag(
        "wandb",
        kind=one_of(TRACKERS),
        group=TRACKING,
        help="tracker that receives numbers and images",
        may_change_on_resume=True,
    )
    wandb_project: str | None = flag(
        None,
        group=TRACKING,
        help="project in wandb",
        unset="the variable WANDB_PROJECT, or the project of the published script",
        may_change_on_resume=True,
    )
