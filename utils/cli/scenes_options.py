"""The flags of python -m utils.data.scenes."""

from dataclasses import dataclass
from typing import ClassVar

from utils.cli import kinds
from utils.cli.flags import Options, flag

SCENES = "scenes"


@dataclass(frozen=True, kw_only=True)
class ScenesOptions(Options):
    """Flags of python -m utils.data.scenes."""

    script: ClassVar[str] = "python -m utils.data.scenes"
    groups: ClassVar[tuple[str, ...]] = (SCENES,)
    example: ClassVar[str] = "--out scenes --count 256"

    out: str = flag(
        kind=kinds.PATH, group=SCENES, help="new folder for the images and their captions"
    )
    count: int = flag(
        64, kind=kinds.count(1, kinds.MOST_IMAGES), group=SCENES, help="number of scenes"
    )
    seed: int = flag(0, kind=kinds.SEED, group=SCENES, help="seed of the scenes")
    size: int = flag(
        64,
        kind=kinds.count(16, kinds.MOST_PIXELS),
        group=SCENES,
        help="side of a scene in pixels",
    )
