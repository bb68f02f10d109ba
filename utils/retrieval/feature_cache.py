"""Features kept on disk by what determines them: the images (paths, sizes, times of change) and the
extractor's record.

A file each, safetensors, whole or absent; everything here can be deleted at any time. Bad images
are kept with it, so that a run that finds everything here opens no image at all."""

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path

from PIL import __version__ as PILLOW

from utils.files.whole_files import whole_file

# of what the extractors compute; a change in transforms that no record shows must raise it
VERSION = 1


def default_folder():
    """Where features are kept unless --cache_dir says otherwise: the user's cache folder, never
    beside the images."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "diffrep" / "features"


def folder_of(given):
    """The folder of --cache_dir: as given, the user's when nothing is, None for `none`."""
    return None if given == "none" else Path(given) if given else default_folder()


def change_stamp(images):
    """What tells an ImageSet's files from the same ones changed: paths, sizes and times of change.
    Returns: dict."""
    stamps = hashlib.sha256()
    for i in range(len(images)):
        stamps.update(f"{_stamp(images, i)}\n".encode())
    return {"fingerprint": images.fingerprint, "stamps": stamps.hexdigest()}


@dataclass(frozen=True)
class FeatureCache:
    """folder: or None, which keeps nothing. say: takes a line for the user."""

    folder: Path | None
    say: object

    def path(self, state, extractor, facts):
        """The file of the features of images in a `change_stamp`. facts: what else they depend on, of
        JSON types."""
        what = {
            "version": VERSION,
            "images": state,
            "pillow": PILLOW,
            "extractor": extractor.record,
        } | facts
        digest = hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()
        return self.folder / f"{digest[:32]}.safetensors"

    def read(self, path):
        """(features [N, D], indices of the N images, bad) of an earlier run, or None. A damaged
        file counts as none."""
        from safetensors import SafetensorError, safe_open

        if self.folder is None or not path.is_file():
            return None
        try:
            with safe_open(str(path), framework="pt") as file:
                bad = [tuple(b) for b in json.loads(file.metadata()["bad"])]
                return file.get_tensor("features"), file.get_tensor("indices").tolist(), bad
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
            self.say(f"{path} cannot be read and is made anew ({error})")
            return None

    def write(self, path, features, indices, bad):
        """Keep features. A disk that is full or not ours costs the next run time, not this one its
        numbers: it is said."""
        import torch
        from safetensors import SafetensorError
        from safetensors.torch import save_file

        if self.folder is None:
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
                f"features are not kept in {self.folder} ({error}); --cache_dir names another"
                " folder"
            )


def _stamp(images, index):
    try:
        return images.stamp(index)
    except OSError:  # a dangling link
        return None
