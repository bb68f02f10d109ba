"""The flags of python -m utils.data.scenes."""

from dataclasses import dataclass
from typing import ClassVar

from utils.cli.flags import Options, flag
from utils.cli.kinds import PATH, whole

SCENES = "scenes"


@dataclass(frozen=True, kw_only=True)
class ScenesOptions(Options):
    """Flags of python -m utils.data.scenes."""

    script: ClassVar[str] = "python -m utils.data.scenes"
    groups: ClassVar[tuple[str, ...]] = (SCENES,)
    example: ClassVar[str] = "--out scenes --count 256"

    out: str = flag(kind=PATH, group=SCENES, help="new folder for the images and their captions")
    count: int = flag(64, kind=whole(1), group=SCENES, help="number of scenes")
    seed: int = flag(0, kind=whole(0), group=SCENES, help="seed of the scenes")
    size: int = flag(64, kind=whole(16), group=SCENES, help="side of a scene in pixels")
