"""Class images of prior preservation: what is there, what the base model adds, what is refused."""

import json
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from utils.models import families
from utils.models.pipeline_files import NO_CHOICE
from utils.runtime import parallel
from utils.runtime.errors import DataError, UsageError
from utils.training import class_images


def process(index=0, count=1):
    return SimpleNamespace(
        num_processes=count,
        process_index=index,
        device=torch.device("cpu"),
        is_main_process=index == 0,
    )


ALONE = parallel.Processes(process())


@pytest.fixture
def base(micro_sd, monkeypatch):
    """The random pipeline, in two steps an image."""
    monkeypatch.setattr(families, "default_sampling", lambda name: (2, 3.0))
    name, configs = families.read("--m", str(micro_sd))
    return class_images.Base(str(micro_sd), NO_CHOICE, name, configs, "no")


def request(folder, *, prompt="a photo of a dog", count=3, side=16):
    return class_images.ClassRequest(str(folder), prompt, count, side)


def completed(wanted, base, batch=2):
    """The class images of a request as bytes by key, in the order of the run, after completion."""
    class_images.complete(class_images.plan(wanted, base, batch=batch, threads=1), ALONE)
    images = class_images.class_set(wanted, max_bad=0.0, workers=1)
    return {key: images.path(i).read_bytes() for i, key in enumerate(images.keys)}


def test_the_base_model_adds_what_is_missing_and_the_pictures_of_the_user_come_first(
    tmp_path, base
):
    folder = tmp_path / "class"
    folder.mkdir()
    Image.new("RGB", (20, 20), "red").save(folder / "z.png")
    planned = class_images.plan(request(folder), base, batch=2, threads=1)
    assert (planned.own, planned.added) == (1, 2)
    assert str(folder / "manifest.json") in planned.planned()
    assert not (folder / "manifest.json").exists()
    made = completed(request(folder), base)
    assert list(made) == ["z.png", "generations/0.png", "generations/1.png"]
    assert len(set(made.values())) == 3
    with Image.open(folder / "generations" / "0.png") as image:
        assert image.size == (16, 16)
    record = class_images.record_of(
        request(folder), class_images.class_set(request(folder), max_bad=0.0, workers=1)
    )
    assert (record["images"], record["generated"]) == (3, 2)
    # there is nothing left to do, and the first of more images are taken
    assert class_images.plan(request(folder), base, batch=2, threads=1).generation is None
    assert list(completed(request(folder, count=2), base)) == list(made)[:2]


def test_a_class_image_depends_on_its_number_alone_whatever_was_there_before(tmp_path, base):
    whole = completed(request(tmp_path / "whole"), base)
    folder = tmp_path / "killed"
    completed(request(folder, count=2), base)
    (folder / "generations" / "0.png").unlink()
    again = completed(request(folder), base, batch=1)
    assert list(again) == list(whole)
    assert [key for key in whole if whole[key] != again[key]] == []


def test_class_images_of_another_prompt_or_model_are_refused(tmp_path, base, micro_parts):
    completed(request(tmp_path / "class", count=1), base)
    with pytest.raises(UsageError, match="--class_data_prompt='a cat': .* holds a generation with"):
        class_images.plan(request(tmp_path / "class", prompt="a cat"), base, batch=1, threads=1)
    parts = micro_parts()
    with torch.no_grad():
        next(parts.denoiser.parameters()).add_(1)
    parts.assemble().save_pretrained(tmp_path / "other")
    other = class_images.Base(str(tmp_path / "other"), NO_CHOICE, base.name, base.configs, "no")
    with pytest.raises(UsageError, match="--pretrained_model_name_or_path: .*another one; use"):
        class_images.plan(request(tmp_path / "class", count=2), other, batch=1, threads=1)


def test_a_generation_of_the_user_is_taken_as_it_is(tmp_path, base):
    folder = tmp_path / "class"
    completed(request(folder, count=2), base)
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["settings"][class_images.OURS]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    wanted = request(folder, prompt="a photo of any dog", count=2)
    assert class_images.plan(wanted, base, batch=1, threads=1).generation is None
    with pytest.raises(UsageError, match="generation of 2 images, and --num_class_images=3"):
        class_images.plan(request(folder), base, batch=1, threads=1)


def test_class_images_that_are_not_finite_are_refused(tmp_path, base, monkeypatch):
    from utils.generation import degenerate

    seen = iter([True, False, True])
    monkeypatch.setattr(
        degenerate,
        "note_of",
        lambda image, finite: {} if next(seen) else {"degenerate": "not finite"},
    )
    with pytest.raises(DataError, match=r"1 of 3 class images are not finite.*generations/1.png"):
        completed(request(tmp_path / "class"), base)


def test_the_folder_of_class_images_lies_beside_the_others(tmp_path):
    data, run = str(tmp_path / "data"), str(tmp_path / "run")
    class_images.require_apart(str(tmp_path / "data2"), [("--instance_data_dir", data)])
    for folder in (data, f"{data}/class", str(tmp_path)):
        with pytest.raises(UsageError, match="--class_data_dir=.* and --instance_data_dir="):
            class_images.require_apart(
                folder, [("--x", run + "/y"), ("--instance_data_dir", data)][1:]
            )
