"""The training pictures whose captions were the prompts of a generation, to be looked at beside its
images."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from PIL import Image

from utils.data import data_sources, key_matching
from utils.data.image_files import open_image
from utils.runtime.errors import ToolkitError

# opens a picture as PIL RGB, of at least so many pixels a side; ToolkitError if it cannot be read
Opener = Callable[[int], Image.Image]


def find(names: Iterable[str | None], folders: Sequence[str | Path | None]) -> dict[str, Opener]:
    """Look for pictures in folders, the first that holds one counts.

    names: of pictures, as a manifest's `source_image`; None is passed over
    folders: of a run's training data (also shards and tables), of a file of prompts; None is passed
        over, and so is one that is gone or holds no pictures

    Returns: {name: what opens it}, without those that are nowhere."""
    wanted = list(dict.fromkeys(name for name in names if name))
    places = [Path(folder) for folder in folders if folder is not None]
    found: dict[str, Opener] = {}
    for name in wanted:
        path = next((place / name for place in places if (place / name).is_file()), None)
        if path is not None:
            found[name] = _opener(path)
    for place in places:  # listing a large folder takes time; most names are paths below one
        rest = [name for name in wanted if name not in found]
        if rest:
            found |= _listed(rest, place)
    return found


def opened(found: Mapping[str, Opener], name: str | None, side: int) -> Image.Image | None:
    """A picture that `find` found, PIL RGB; None for others, and if it cannot be read now.

    side: in pixels, that is enough to look at"""
    opener = found.get(name) if name else None
    try:
        return None if opener is None else opener(side)
    except ToolkitError:
        return None


def _opener(path: Path) -> Opener:
    return lambda side: open_image(path, at_least=side)


def _listed(names: Sequence[str], folder: Path) -> dict[str, Opener]:
    """The pictures of a data folder by names that are written otherwise, or inside shards."""
    try:
        images, _ = data_sources.list_data("--instance_data_dir", folder)
        matched, _ = key_matching.match_keys(
            folder / "manifest.json", names, str(images.root), images.keys, anywhere=True
        )
    except ToolkitError:  # it is gone, holds no pictures, or a name fits several
        return {}
    index = {key: i for i, key in enumerate(images.keys)}

    def opener(place: int) -> Opener:
        return lambda side: images.open(place, at_least=side)

    return {name: opener(index[key]) for key, name in matched.items()}
