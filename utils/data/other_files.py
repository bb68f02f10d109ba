"""Files that are given in the place of a folder of images: what each is, and what to do."""

from __future__ import annotations

from pathlib import Path

from utils.data import file_kinds, image_names
from utils.runtime.errors import UsageError, require_dir

# by name: (suffixes, what such a file is, what to do)
NAMED = (
    ((".zip", ".7z", ".rar"), "an archive", "unpack it and give the folder"),
    ((".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".gz"), "compressed", "unpack it and give the tar"),
    (
        (".safetensors", ".ckpt", ".pt", ".pth", ".bin", ".gguf", ".onnx"),
        "a file of weights",
        "give a folder of images; a model goes to the flag of the model",
    ),
    (
        (".json", ".jsonl", ".csv", ".tsv", ".txt"),
        "a file of text",
        "give the folder of the images that it names",
    ),
    ((".arrow",), "a part of a data set", "give its folder, with dataset_info.json and state.json"),
)


def require_folder(flag: str, source: str | Path, *, accepted: str) -> Path:
    """`require_dir`, which says what the file is that stands in the place of a folder, by its name
    or else by its first bytes. accepted: what to give instead, after "give"."""
    path = Path(source)
    if path.is_file():
        raise UsageError(f"{flag}={str(source)!r} is {_what_and_advice(path, accepted)}")
    return require_dir(flag, source)


def _what_and_advice(path: Path, accepted: str) -> str:
    name = path.name.lower()
    if image_names.has_suffix(name):
        return "one image; give its folder"
    for suffixes, what, advice in NAMED:
        if name.endswith(suffixes):
            return f"{what}; {advice}"
    with open(path, "rb") as file:
        kind = file_kinds.kind_of(file.read(file_kinds.ENOUGH))
    if kind is None:
        return f"a file that is not understood; give {accepted}"
    if kind.endswith("archive"):
        return f"a file ({kind}); unpack it and give the folder"
    return f"a file ({kind}); give {accepted}"
