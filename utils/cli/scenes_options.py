"""The flags of python -m utils.data.scenes."""

from dataclasses import dataclass
from typing import ClassVar

from utils.cli.flags import flag, whole


@dataclass(frozen=True, kw_only=True)
class ScenesOptions:
    """python -m utils.data.scenes"""

    script: ClassVar[str] = "python -m utils.data.scenes"

    out: str = flag(help="new folder")
    count: int = flag(64, kind=whole(1), help="number of scenes")
    seed: int = flag(0, kind=whole(0), help="seed of the scenes")
    size: int = flag(64, kind=whole(16), help="side in pixels")

    def check(self):
        """Nothing here depends on two flags."""
