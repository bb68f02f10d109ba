"""Features on disk, under a name that depends on all that determines them: the images (paths,
sizes, modification times, contents) and the extractor's record.

Each is a safetensors file, whole or absent; every file may be deleted at any time. The unreadable
images are kept with the features, so that a run that needs nothing else opens no image."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import __version__ as PILLOW

from utils.data import content_stamps
from utils.data.image_sets import ImageSet
from utils.files.whole_files import whole_file
from utils.retrieval.descriptors.network import Extractor

if TYPE_CHECKING:
    import torch

Bad = tuple[str, str]  # key of an image that cannot be read, and why

# of what extractors compute; raise it after a change in transforms that no record shows
VERSION = 2


def default_folder() -> Path:
    """Where features are cached without --cache_dir: the user's cache folder, never beside the
    images."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "diffrep" / "features"


def folder_of(given: str | None) -> Path | None:
    """The folder that --cache_dir names; without the flag, the user's cache folder; None for
    `none`."""
    if given == "none":
        return None
    return Path(given) if given else default_folder()


def change_stamp(images: ImageSet) -> dict[str, str]:
    """Three hashes of the paths and sizes, of the modification times and of the contents of the
    images' files, to detect a change."""
    stamps = hashlib.sha256()
    for i in range(len(images)):
        stamps.update(f"{_stamp(images, i)}\n".encode())
    return {
        "fingerprint": images.fingerprint,
        "stamps": stamps.hexdigest(),
        content_stamps.CONTENT: images.content_fingerprint,
    }


@dataclass(frozen=True)
class FeatureCache:
    """A folder of cached features."""

    folder: Path | None  # None: nothing is kept
    say: Callable[[str], None]  # prints a line for the user

    def path(
        self, stamp: Mapping[str, str], extractor: Extractor, facts: Mapping[str, Any]
    ) -> Path:
        """The file of the features of some images. The cache must have a folder.

        stamp: `change_stamp` of the images
        facts: what else the features depend on, of JSON types"""
        if self.folder is None:
            raise ValueError("a cache without a folder has no files")
        determined_by = {
            "version": VERSION,
            "images": stamp,
            "pillow": PILLOW,
            "extractor": extractor.record,
            **facts,
        }
        digest = hashlib.sha256(json.dumps(determined_by, sort_keys=True).encode()).hexdigest()
        return self.folder / f"{digest[:32]}.safetensors"

    def read(self, path: Path) -> tuple[torch.Tensor, list[int], list[Bad]] | None:
        """The features [N, D] of an earlier run, indices of the N images, and the unreadable
        images. None if there is no such file, or it is damaged."""
        from safetensors import SafetensorError, safe_open

        if self.folder is None or not path.is_file():
            return None
        try:
            with safe_open(str(path), framework="pt") as file:
                bad = [tuple(b) for b in json.loads(file.metadata()["bad"])]
                return file.get_tensor("features"), file.get_tensor("indices").tolist(), bad
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
            self.say(f"{path} cannot be read and is rebuilt ({error})")
            return None

    def write(
        self,
        path: Path | None,
        features: torch.Tensor,
        indices: Sequence[int],
        bad: Sequence[Bad],
    ) -> None:
        """Save features. If the disk is full, or the folder is not writable, a line says so: the
        next run computes them again."""
        import torch
        from safetensors import SafetensorError
        from safetensors.torch import save_file

        if self.folder is None or path is None:
            return
        try:
            with whole_file(path) as part:
                rows = {
                    "features": features.contiguous(),
                    "indices": torch.tensor(indices, dtype=torch.int64),
                }
                save_file(rows, part, metadata={"bad": json.dumps(bad)})
        except (OSError, SafetensorError) as error:
            self.say(
                f"features could not be cached in {self.folder} ({error}); use --cache_dir for"
                " another folder"
            )


def _stamp(images: ImageSet, index: int) -> int | None:
    """Modification time of an image's file in ns; None for a dangling link."""
    try:
        return images.stamp(index)
    except OSError:
        return None
