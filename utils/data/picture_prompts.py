"""Prompts and seeds that other programs write into the pictures that they generate: the registry of
programs.

What a picture says is a stranger's text: it is read up to a size, parsed as JSON where it is JSON,
and never evaluated. What cannot be understood is no prompt, and no error."""

from __future__ import annotations

import re
import warnings
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from utils.data import image_files
from utils.data.image_sets import ImageSet
from utils.data.node_graphs import prompt_of_graph
from utils.files import text_files
from utils.runtime.errors import DataError

LARGEST_TEXT = (
    1 << 20
)  # characters of an entry, or bytes of a text beside a picture; more is skipped
LONGEST_PROMPT = 20_000  # characters; more is no prompt
SEEDS = 1 << 64  # seeds of all programs are below
FORMATS = ("PNG", "JPEG", "WEBP")  # in which programs write prompts, by Pillow's names
EXIF_MODEL, EXIF_DETAILS, EXIF_COMMENT = 0x0110, 0x8769, 0x9286  # tags; details is a directory
# the characters of an EXIF comment, by its first eight bytes
COMMENT_PREFIX = 8
UNREADABLE = (*image_files.UNREADABLE, zlib.error, MemoryError, OverflowError, RecursionError)


@dataclass(frozen=True)
class PicturePrompt:
    """What a picture says of its generation."""

    prompt: str  # not empty
    seed: int | None  # at least 0
    program: str  # a key of PROGRAMS


@dataclass(frozen=True)
class PictureTexts:
    """The texts of a picture in which a prompt may be."""

    entries: Mapping[str, str] = field(default_factory=dict)  # named texts of a PNG
    comment: str = ""  # UserComment of EXIF
    beside: str = ""  # the file of the same stem that ends in .txt


Prompt = tuple[str, Any]  # prompt and seed as a program wrote them


# Programs -----------------------------------------------------------------------------------------


def _parameters(text: str) -> Prompt | None:
    """Prompt and seed of AUTOMATIC1111's format: the prompt, "Negative prompt: ...", and last a
    line "Steps: ..., Seed: ..."; the first two may have several lines."""
    lines = text.strip().split("\n")
    settings = next(
        (i for i in reversed(range(len(lines))) if lines[i].startswith("Steps: ")), None
    )
    if settings is None:
        return None
    end = next((i for i in range(settings) if lines[i].startswith("Negative prompt:")), settings)
    seed = re.search(r"(?:^|, )Seed: ([0-9]{1,20})(?:,|$)", lines[settings].rstrip())
    return "\n".join(lines[:end]), seed and seed[1]


def _automatic1111(texts: PictureTexts) -> Prompt | None:
    found = (_parameters(text) for text in (texts.entries.get("parameters", ""), texts.comment))
    return next((each for each in found if each is not None), None)


def _comfyui(texts: PictureTexts) -> Prompt | None:
    return prompt_of_graph(_json(texts.entries.get("prompt")))


def _invokeai(texts: PictureTexts) -> Prompt | None:
    newer = _json(texts.entries.get("invokeai_metadata"))
    if isinstance(newer, dict) and isinstance(newer.get("positive_prompt"), str):
        return newer["positive_prompt"], newer.get("seed")
    older = _json(texts.entries.get("sd-metadata"))
    image = older.get("image") if isinstance(older, dict) else None
    if not isinstance(image, dict):
        return None
    prompt = image.get("prompt")
    if isinstance(prompt, list) and len(prompt) == 1 and isinstance(prompt[0], dict):
        prompt = prompt[0].get("prompt")
    return (prompt, image.get("seed")) if isinstance(prompt, str) else None


def _diffusers(texts: PictureTexts) -> Prompt | None:
    prompt = texts.entries.get("prompt", "")
    # a graph that was not understood is no prompt
    graph = "workflow" in texts.entries or re.match(r"\s*(?:\{|\[\s*[\[{])", prompt)
    return None if graph else (prompt, texts.entries.get("seed"))


def _text_beside(texts: PictureTexts) -> Prompt | None:
    return _parameters(texts.beside) or (texts.beside, None)


# what wrote a prompt -> (texts of a picture) -> prompt and seed, or None; the first that finds a
# prompt counts
PROGRAMS: dict[str, Callable[[PictureTexts], Prompt | None]] = {
    "AUTOMATIC1111": _automatic1111,
    "ComfyUI": _comfyui,
    "InvokeAI": _invokeai,
    "text entries prompt and seed": _diffusers,
    ".txt beside the picture": _text_beside,
}


def _json(text: str | None) -> Any:
    """The value of a JSON text; None if it is none, or nested too deeply."""
    try:
        return text_files.parse_json(text or "null", "the picture")
    except text_files.MalformedError:
        return None


def _seed(value: Any) -> int | None:
    if isinstance(value, str) and re.fullmatch(r"\s*[0-9]{1,20}\s*", value):
        value = int(value)
    usable = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < SEEDS
    return value if usable else None


def prompt_in(texts: PictureTexts) -> PicturePrompt | None:
    """The prompt that the texts of a picture hold, by the first of PROGRAMS that finds one. An
    empty prompt is none."""
    for program, find in PROGRAMS.items():
        found = find(texts)
        prompt = found[0].strip() if found else ""
        if found and prompt and len(prompt) <= LONGEST_PROMPT:
            return PicturePrompt(prompt, _seed(found[1]), program)
    return None


# Reading ------------------------------------------------------------------------------------------


def _decoded_comment(content: Any) -> str:
    """The text of a UserComment: eight bytes name its characters, then it follows."""
    if isinstance(content, str):
        return content
    if not isinstance(content, bytes):
        return ""
    prefix, text = content[:COMMENT_PREFIX], content[COMMENT_PREFIX:]
    if prefix != b"UNICODE\0":
        return text.decode("utf-8", "replace").strip("\0")
    if text.startswith((b"\xfe\xff", b"\xff\xfe")):
        return text.decode("utf-16", "replace")
    # UTF-16 in the order of bytes that EXIF has, or of the program: most texts are half ASCII
    big_endian = text[0::2].count(0) >= text[1::2].count(0)
    return text.decode("utf-16-be" if big_endian else "utf-16-le", "replace").strip("\0")


def _metadata(path: Path) -> tuple[dict, Any, Any]:
    """Pillow's named values of a picture file, and two values of its EXIF data or None; what Pillow
    raises for a file that is damaged passes. The pixels are not decoded."""
    with Image.open(path, formats=FORMATS) as image:
        exif = image.getexif()
        return (
            dict(image.info),
            exif.get(EXIF_MODEL),
            exif.get_ifd(EXIF_DETAILS).get(EXIF_COMMENT),
        )


def _inside(path: Path) -> tuple[dict[str, str], str]:
    """The named texts in a picture file and its EXIF comment."""
    if not path.is_file():  # opening a pipe or a device could wait for ever
        return {}, ""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about damage, of which a user learns elsewhere
            info, model, comment = _metadata(path)
    except UNREADABLE:
        return {}, ""
    entries = {
        str(name): str(text)
        for name, text in info.items()
        if isinstance(text, str) and len(text) <= LARGEST_TEXT
    }
    if isinstance(model, str) and model.startswith("prompt:"):  # so ComfyUI writes WebP
        entries.setdefault("prompt", model.removeprefix("prompt:")[:LARGEST_TEXT])
    if isinstance(comment, bytes | str) and len(comment) > LARGEST_TEXT:
        comment = None
    return entries, _decoded_comment(comment)


def _beside(path: Path) -> str:
    """The text of the .txt beside a picture; "" if there is none that can be read."""
    text = path.with_suffix(".txt")
    try:
        if not text.is_file() or text.stat().st_size > LARGEST_TEXT:
            return ""
        return text_files.read_text(text)
    except (OSError, DataError):
        return ""


def read_prompt(path: Path) -> PicturePrompt | None:
    """The prompt of a picture file, from the file or from the .txt beside it; None if it has none.
    No file is an error."""
    entries, comment = _inside(path)
    return prompt_in(PictureTexts(entries, comment, _beside(path)))


def read_prompts(images: ImageSet) -> dict[str, PicturePrompt]:
    """The prompts of the pictures of a folder that have one. Returns: {image key: prompt}; {} for
    images inside larger files, and at an address."""
    if images.places or not isinstance(images.root, Path):
        return {}
    found = ((key, read_prompt(images.root / key)) for key in images.keys)
    return {key: prompt for key, prompt in found if prompt is not None}


def summary(prompts: Iterable[PicturePrompt], pictures: int) -> str:
    """How many of the pictures have a prompt, from which programs, and what follows for the others,
    in one line. pictures: number of all."""
    counts: Sequence[tuple[str, int]] = Counter(each.program for each in prompts).most_common()
    found = sum(count for _, count in counts)
    programs = ", ".join(f"{count} by {program}" for program, count in counts)
    line = f"{found} of {pictures} pictures bring their prompt: {programs}"
    if found < pictures:
        line += (
            f"; the other {pictures - found} have no CLIP score, and each counts as a prompt of its"
            " own in intervals"
        )
    return line
