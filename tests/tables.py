"""Tables with pictures in their rows, as `datasets` and other programs write them."""

import json

import pyarrow as pa
import pyarrow.parquet as pq

from tests.tars import png
from utils.data.image_sets import list_images


def picture(grey, path=None):
    """A picture as the column type Image of `datasets` stores it."""
    return {"bytes": None if grey is None else png(grey), "path": path}


def write_parquet(path, columns, *, group=None, **more):
    """A Parquet file. columns: {name: values}; group: rows of a row group."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path, row_group_size=group, **more)
    return path


def greys_parquet(path, greys, *, captions=True, group=2):
    """A file as `Dataset.to_parquet` writes it: pictures of the given greys, with their captions."""
    columns = {"image": [picture(grey) for grey in greys]}
    if captions:
        columns["text"] = [f"grey {grey}" for grey in greys]
    return write_parquet(path, columns, group=group)


def save_to_disk(folder, columns, files=1, **state):
    """A folder as `Dataset.save_to_disk` writes it."""
    folder.mkdir(parents=True, exist_ok=True)
    table = pa.table(columns)
    rows = -(-len(table) // files)
    names = [f"data-{i:05d}-of-{files:05d}.arrow" for i in range(files)]
    for i, name in enumerate(names):
        part = table.slice(i * rows, rows)
        with pa.ipc.new_stream(folder / name, part.schema) as stream:
            stream.write_table(part, max_chunksize=2)
    (folder / "dataset_info.json").write_text(json.dumps({"features": {}}))
    data = {"_data_files": [{"filename": name} for name in names], "_split": "train"} | state
    (folder / "state.json").write_text(json.dumps(data))
    return folder


def scenes_columns(scenes_dir):
    """The scenes in natural order, as columns of pictures and captions."""
    texts = json.loads((scenes_dir / "captions.json").read_text())
    images = list_images("--d", scenes_dir / "train")
    pictures = [{"bytes": images.path(i).read_bytes(), "path": None} for i in range(len(images))]
    return {"image": pictures, "text": [texts[f"train/{key}"][0] for key in images.keys]}
