"""The flags of python -m utils.captioning."""

from dataclasses import dataclass
from typing import ClassVar

from utils.cli.common_options import (
    COLUMNS,
    READING,
    RUNNING,
    SPEED,
    ColumnOptions,
    ReadingOptions,
)
from utils.cli.flags import flag, switch
from utils.cli.kinds import MOST_AT_ONCE, PATH, SEED, count, one_of, real, whole
from utils.runtime.errors import UsageError

# titles of --help
IMAGES = "images and captions"
SAMPLING = "model and sampling"
MOST_TOKENS = 512  # of a caption
MOST_CAPTIONS = 10_000  # of an image


@dataclass(frozen=True, kw_only=True)
class CaptioningOptions(ReadingOptions, ColumnOptions):
    """Flags of python -m utils.captioning."""

    script: ClassVar[str] = "python -m utils.captioning"
    groups: ClassVar[tuple[str, ...]] = (IMAGES, COLUMNS, SAMPLING, READING, SPEED, RUNNING)
    example: ClassVar[str] = "--instance_data_dir pictures --out captions.json"

    instance_data_dir: str = flag(
        kind=PATH, group=IMAGES, help="folder of images, or tar files, as diff_train.py takes them"
    )
    out: str = flag(
        kind=PATH, group=IMAGES, help="new captions file (.json): image -> list of captions"
    )
    instance_prompt_loc: str | None = flag(
        None,
        kind=PATH,
        group=IMAGES,
        help="captions file with captions that images have already; they stay first",
        unset="captions beside the images",
    )
    captioner: str = flag(
        "Salesforce/blip-image-captioning-base",
        kind=PATH,
        group=SAMPLING,
        help="image-to-text model of transformers: a hub name or a folder",
    )
    num_captions: int = flag(
        20,
        kind=count(1, MOST_CAPTIONS),
        group=SAMPLING,
        help="number of captions that are sampled for an image",
    )
    top_p: float = flag(
        0.9,
        kind=real(above=0, high=1),
        group=SAMPLING,
        help=(
            "nucleus sampling: each token is drawn from the smallest set of tokens with this"
            " probability"
        ),
    )
    min_length: int = flag(
        5,
        kind=whole(2, MOST_TOKENS),
        group=SAMPLING,
        help="least number of tokens of a caption, its start token included",
    )
    max_length: int = flag(
        20,
        kind=whole(2, MOST_TOKENS),
        group=SAMPLING,
        help="largest number of tokens of a caption, its start token included",
    )
    seed: int = flag(0, kind=SEED, group=SAMPLING, help="seed of the captions")
    batch_size: int = flag(
        8,
        kind=count(1, MOST_AT_ONCE),
        group=SPEED,
        help="number of images that are captioned at once",
    )
    mixed_precision: str = flag(
        "no",
        kind=one_of(("no", "fp16", "bf16")),
        group=SPEED,
        help="precision of the model; no is float32; without the flag, that of accelerate launch",
        launcher="ACCELERATE_MIXED_PRECISION",
    )
    dry_run: bool = switch(
        group=RUNNING,
        help="preview: print what was recognised and what would be written, then stop",
    )

    def check(self) -> None:
        """Raise UsageError where flags contradict each other."""
        if self.min_length > self.max_length:
            raise UsageError(
                f"--min_length={self.min_length} is more than --max_length={self.max_length}; use"
                " at most that"
            )
        if not self.out.endswith(".json"):
            raise UsageError(f"--out={self.out!r} is not accepted; use a name that ends in .json")
