"""Indices of descriptors made on the spot, of vectors or of images, for tests of what works on an
index."""

import copy
import json

import numpy as np
import torch

from utils.index import shard_files, vector_index
from utils.retrieval.descriptors import extractors, network
from utils.retrieval.formulas.similarity import normalised


def printing_to(processes, say):
    """The same processes, whose lines for the user go to `say`."""
    processes = copy.copy(processes)
    processes.say = say
    processes.show = lambda plan: say(json.dumps(plan))
    return processes


def index_of(
    root,
    vectors,
    rows=None,
    *,
    folder=None,
    names=("00000",),
    in_tars=False,
    pt_style="pixel",
    planned=None,
    record=None,
):
    """An opened index of vectors [N, D] in shards of about equal length. rows: N dicts of
    shard_files.COLUMNS."""
    rows = rows or [{"key": f"{i:05d}.png", "bytes": 1} for i in range(len(vectors))]
    descriptor = {"pt_style": pt_style} | (record or {})
    source = {"folder": str(folder or root), "shards": in_tars}
    vector_index.write_index(root, descriptor=descriptor, source=source, planned=planned or names)
    for name, places in zip(
        names, np.array_split(np.arange(len(vectors)), len(names)), strict=True
    ):
        shard_files.write_shard(
            root,
            name,
            vectors[places],
            [rows[i] for i in places],
            descriptor=descriptor,
            change_stamp={},
        )
    return vector_index.open_index("--val_dir", root)


def image_index(root, images, captions=None, *, pt_style="pixel", arch=None, **more):
    """An opened index of an ImageSet, of one shard. captions: {key: [caption]}."""
    choice = network.NetworkChoice(arch=arch)
    wanted = network.Wanted(device=torch.device("cpu"), dtype=torch.float32, choice=choice)
    extractor = extractors.EXTRACTORS[pt_style](wanted)
    opened = [images.open(i) for i in range(len(images))]
    with torch.no_grad():
        vectors = normalised(
            extractor.network(torch.stack([extractor.transform(image) for image in opened]))
        )
    rows = [
        {
            "key": key,
            "bytes": size,
            "width": image.width,
            "height": image.height,
            "offset": images.places[i][1] if images.places else None,
            "caption": (captions or {}).get(key, [None])[0],
        }
        for i, (key, size, image) in enumerate(zip(images.keys, images.sizes, opened, strict=True))
    ]
    more = {
        "folder": images.root,
        "in_tars": bool(images.places),
        "pt_style": pt_style,
        "record": extractor.record,
    } | more
    return index_of(root, vectors.numpy(), rows, **more)
