"""Tar shards made on the spot, for tests of what reads them."""

import io
import json
import tarfile

import numpy as np
from PIL import Image


def png(value, size=(20, 16)):
    """A PNG of one colour, (value, 0, 0)."""
    out = io.BytesIO()
    Image.new("RGB", size, (value, 0, 0)).save(out, format="PNG")
    return out.getvalue()


def noise(seed, size=(20, 16), form="PNG", **how):
    """An image file of coloured noise."""
    out = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(out, format=form, **how)
    return out.getvalue()


def sample(stem, image, **fields):
    """Members of a sample as img2dataset writes them: the image, its caption as text, all that is
    known of it as JSON."""
    members = {f"{stem}.png": image, f"{stem}.json": json.dumps({"key": stem} | fields).encode()}
    return members | ({f"{stem}.txt": fields["caption"].encode()} if "caption" in fields else {})


def write(path, members):
    """A tar file of {name: bytes}, in that order."""
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
