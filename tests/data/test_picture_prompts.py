import json
import os
import struct
import time
import zlib

import pytest
from PIL import Image, PngImagePlugin

from tests.data.test_node_graphs import WRONG, text_to_image
from utils.data import image_sets, picture_prompts
from utils.data.picture_prompts import PicturePrompt, read_prompt

A1111 = """a photo of a (red:1.2) cat, <lora:x:1>
on a mat
Negative prompt: blurry
Steps: 28, Sampler: Euler a, CFG scale: 7, Seed: 3021, Size: 512x512, Variation seed: 9"""
CAT = "a photo of a (red:1.2) cat, <lora:x:1>\non a mat"


@pytest.fixture
def png(tmp_path):
    """png(name=text, ...) -> a PNG with these named texts."""

    def write(**texts):
        info = PngImagePlugin.PngInfo()
        for name, text in texts.items():
            info.add_text(name.replace("_", "-") if name == "sd_metadata" else name, text)
        Image.new("RGB", (4, 4)).save(tmp_path / "x.png", pnginfo=info)
        return tmp_path / "x.png"

    return write


def test_automatic1111_writes_parameters(png):
    assert read_prompt(png(parameters=A1111)) == PicturePrompt(CAT, 3021, "AUTOMATIC1111")
    plain = png(parameters="a dog\nSteps: 20, Sampler: DDIM, Seed: 5")
    assert read_prompt(plain) == PicturePrompt("a dog", 5, "AUTOMATIC1111")
    assert read_prompt(png(parameters="Negative prompt: x\nSteps: 20, Seed: 5")) is None


def test_texts_that_are_not_latin_are_read(png):
    info = PngImagePlugin.PngInfo()
    info.add_itxt("parameters", "kočka 猫\nSteps: 20, Seed: 5")
    path = png()
    Image.new("RGB", (4, 4)).save(path, pnginfo=info)
    assert read_prompt(path).prompt == "kočka 猫"


def test_comfyui_writes_its_graph_as_prompt(png):
    graph = json.dumps(text_to_image())
    wanted = PicturePrompt("beautiful scenery, bottle", 156680208700286, "ComfyUI")
    assert read_prompt(png(prompt=graph, workflow="{}")) == wanted


def test_comfyui_writes_its_graph_into_the_exif_data_of_webp(tmp_path):
    exif = Image.Exif()
    exif[0x0110] = f"prompt:{json.dumps(text_to_image())}"
    Image.new("RGB", (4, 4)).save(tmp_path / "x.webp", exif=exif)
    assert read_prompt(tmp_path / "x.webp").prompt == "beautiful scenery, bottle"


def test_invokeai_writes_metadata_of_two_kinds(png):
    newer = {"positive_prompt": "a barn", "negative_prompt": "x", "seed": 12, "model": {}}
    older = {"model": "sd", "image": {"prompt": [{"prompt": "a hut", "weight": 1}], "seed": 4}}
    assert read_prompt(png(invokeai_metadata=json.dumps(newer))) == PicturePrompt(
        "a barn", 12, "InvokeAI"
    )
    assert read_prompt(png(sd_metadata=json.dumps(older))) == PicturePrompt("a hut", 4, "InvokeAI")
    older["image"]["prompt"] = "a hut"
    assert read_prompt(png(sd_metadata=json.dumps(older))).prompt == "a hut"


def test_scripts_with_diffusers_write_prompt_and_seed(png):
    program = "text entries prompt and seed"
    assert read_prompt(png(prompt="a [cat]", seed="7")) == PicturePrompt("a [cat]", 7, program)
    assert read_prompt(png(prompt="[cat:dog:0.5]", seed="x")).seed is None


@pytest.mark.parametrize("form", ["JPEG", "WEBP"])
@pytest.mark.parametrize(
    "content",
    [
        b"UNICODE\0" + A1111.encode("utf-16-be"),
        b"UNICODE\0" + A1111.encode("utf-16-le"),
        b"UNICODE\0" + A1111.encode("utf-16"),
        b"ASCII\0\0\0" + A1111.encode(),
        b"\0" * 8 + A1111.encode(),
    ],
    ids=["big-endian", "little-endian", "mark", "ascii", "undefined"],
)
def test_the_exif_comment_holds_parameters_in_any_encoding(tmp_path, form, content):
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0x9286] = content
    path = tmp_path / f"x.{form.lower()}"
    Image.new("RGB", (4, 4)).save(path, format=form, exif=exif)
    assert read_prompt(path) == PicturePrompt(CAT, 3021, "AUTOMATIC1111")


@pytest.mark.parametrize(
    ("content", "prompt", "seed"),
    [
        (b"a cat\r\n", "a cat", None),
        ("\ufeffa cat".encode(), "a cat", None),
        ("a caf\u00e9".encode("utf-16"), "a caf\u00e9", None),
        (A1111.encode(), CAT, 3021),
    ],
)
def test_a_text_beside_is_the_prompt(png, tmp_path, content, prompt, seed):
    (tmp_path / "x.txt").write_bytes(content)
    assert read_prompt(png()) == PicturePrompt(prompt, seed, ".txt beside the picture")


def test_what_is_in_the_picture_goes_before_the_text_beside_it(png, tmp_path):
    (tmp_path / "x.txt").write_text("beside")
    assert read_prompt(png(parameters=A1111)).prompt == CAT


# Hostile pictures ---------------------------------------------------------------------------------


def chunk(kind, content):
    return (
        struct.pack(">I", len(content))
        + kind
        + content
        + struct.pack(">I", zlib.crc32(kind + content))
    )


def with_chunk(path, kind, content):
    """Put a chunk behind the header of a PNG."""
    data = path.read_bytes()
    path.write_bytes(data[:33] + chunk(kind, content) + data[33:])
    return path


def quickly(path):
    started = time.process_time()
    found = read_prompt(path)
    assert time.process_time() - started < 5
    return found


@pytest.mark.parametrize("name", ["prompt", "invokeai_metadata", "sd_metadata"])
@pytest.mark.parametrize(
    "text",
    ["[" * 200_000, '{"a":' * 200_000, "{", "[1]", '"x"', "1" * 50_000, "NaN", '{"image": [1]}'],
)
def test_json_that_is_broken_deep_or_of_another_type_is_no_prompt(png, name, text):
    found = quickly(png(**{name: text}))
    # a short text of any letters can be a prompt of the simplest kind
    assert found is None or name == "prompt" and found.prompt == text and len(text) < 10


@pytest.mark.parametrize("graph", WRONG.values(), ids=WRONG.keys())
def test_a_graph_without_a_prompt_is_no_prompt_of_another_program(png, graph):
    text = json.dumps(graph)
    assert quickly(png(prompt=text, workflow="{}")) is None


@pytest.mark.parametrize(
    "wrong",
    [
        {"positive_prompt": 1, "seed": "x"},
        {"positive_prompt": ["a"], "seed": 1},
        {"image": {"prompt": [{"prompt": None}, 3]}},
    ],
)
def test_values_of_wrong_types_are_no_prompt(png, wrong):
    text = json.dumps(wrong)
    assert quickly(png(invokeai_metadata=text, sd_metadata=text)) is None


@pytest.mark.parametrize("seed", [True, -1, 1.5, None, [1], "9" * 30, 1 << 70])
def test_a_seed_of_another_kind_is_no_seed(png, seed):
    text = json.dumps({"positive_prompt": "a", "seed": seed})
    assert read_prompt(png(invokeai_metadata=text)) == PicturePrompt("a", None, "InvokeAI")


def test_a_text_of_70_megabytes_is_no_prompt(png):
    path = with_chunk(png(), b"tEXt", b"parameters\0" + b"a" * 70_000_000)
    assert quickly(path) is None


def test_a_compressed_text_that_grows_is_no_prompt(png):
    bomb = zlib.compress(b"a" * 50_000_000, 9)
    assert quickly(with_chunk(png(), b"zTXt", b"parameters\0\0" + bomb)) is None
    itxt = b"parameters\0\1\0\0\0" + bomb
    assert quickly(with_chunk(png(), b"iTXt", itxt)) is None


def test_a_long_prompt_and_a_long_text_beside_are_no_prompts(png, tmp_path):
    (tmp_path / "x.txt").write_bytes(b"a" * ((1 << 20) + 1))
    assert quickly(png(prompt="a" * 20_001)) is None


def test_exif_data_of_noise_is_no_prompt(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "x.jpg", exif=b"Exif\0\0II*\0" + b"\xff" * 5000)
    assert quickly(tmp_path / "x.jpg") is None
    (tmp_path / "y.png").write_bytes(b"no picture")
    assert quickly(tmp_path / "y.png") is None
    assert quickly(tmp_path / "none.png") is None
    os.mkfifo(tmp_path / "pipe.png")
    assert quickly(tmp_path / "pipe.png") is None


# Sets ---------------------------------------------------------------------------------------------


def test_prompts_of_a_folder_are_counted_by_program(png, tmp_path):
    folder = tmp_path / "g"
    folder.mkdir()
    png(parameters=A1111).rename(folder / "a.png")
    png(prompt="p", seed="1").rename(folder / "b.png")
    prompts = picture_prompts.read_prompts(image_sets.list_images("--query_dir", folder))
    assert {key: each.seed for key, each in prompts.items()} == {"a.png": 3021, "b.png": 1}
    assert picture_prompts.summary(prompts.values(), 2) == (
        "2 of 2 pictures bring their prompt: 1 by AUTOMATIC1111, 1 by text entries prompt and seed"
    )
