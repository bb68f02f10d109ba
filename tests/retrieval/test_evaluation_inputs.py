import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from tests import tars
from utils.cli.retrieval_options import RetrievalOptions
from utils.data import image_sets
from utils.files import whole_files
from utils.retrieval import evaluation_inputs as retrieval
from utils.retrieval import evaluation_stage, measurement
from utils.retrieval.evaluation_sets import Query, Sets, TrainingFacts, source_indices
from utils.runtime.errors import DataError, UsageError


@pytest.fixture
def folder(tmp_path):
    for i in range(12):
        (tmp_path / "g" / "generations").mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4), (i * 20, 0, 0)).save(tmp_path / "g" / "generations" / f"{i}.png")
    return tmp_path / "g"


def test_prompts_are_joined_by_file_not_by_order(folder):
    rows = [
        {
            "file": f"generations/{i}.png",
            "index": i,
            "seed": i,
            "prompt": f"p{i}",
            "source_prompt": f"s{i}",
            "source_image": None,
        }
        for i in reversed(range(12))
    ]
    whole_files.write_manifest(folder / "manifest.json", "generation", images=rows)
    images, queries, _ = retrieval.read_queries(folder, say=print)
    assert images.keys == tuple(f"generations/{i}.png" for i in range(12))
    assert [(q.key, q.source_prompt, q.prompt, q.seed) for q in queries] == [
        (f"generations/{i}.png", f"s{i}", f"p{i}", i) for i in range(12)
    ]


def test_a_published_folder_pairs_k_images_with_a_line(folder, capsys):
    (folder / "prompts.txt").write_text("a\nb\nc\n")
    _, queries, _ = retrieval.read_queries(folder, say=print)
    assert [q.source_prompt for q in queries] == ["a"] * 4 + ["b"] * 4 + ["c"] * 4
    (folder / "prompts.txt").write_text("a\nb\nc\nd\ne\n")
    _, queries, _ = retrieval.read_queries(folder, say=print)
    assert {q.source_prompt for q in queries} == {None}
    assert "5 lines for 12 images; it is not used" in capsys.readouterr().out


def test_pictures_bring_the_prompts_that_their_program_wrote(folder):
    for i in range(4):
        path, info = folder / "generations" / f"{i}.png", PngImagePlugin.PngInfo()
        info.add_text("parameters", f"a cat {i % 2}\nSteps: 20, Seed: {i}, Size: 4x4")
        with Image.open(path) as image:
            image.save(path, pnginfo=info)
    lines = []
    _, queries, manifest = retrieval.read_queries(folder, say=lines.append)
    assert manifest is None
    assert [(q.prompt, q.source_prompt, q.seed) for q in queries[:5]] == [
        ("a cat 0", "a cat 0", 0),
        ("a cat 1", "a cat 1", 1),
        ("a cat 0", "a cat 0", 2),
        ("a cat 1", "a cat 1", 3),
        (None, None, None),
    ]
    assert lines == [
        "4 of 12 pictures bring their prompt: 4 by AUTOMATIC1111; the other 8 have no CLIP score,"
        " and each counts as a prompt of its own in intervals"
    ]
    assert retrieval.generation_facts(folder, queries, None).images_per_prompt is None


def test_prompts_txt_goes_before_the_prompts_in_pictures(folder):
    info = PngImagePlugin.PngInfo()
    info.add_text("prompt", "other")
    Image.new("RGB", (4, 4)).save(folder / "generations" / "0.png", pnginfo=info)
    (folder / "prompts.txt").write_text("a\nb\nc\n")
    _, queries, _ = retrieval.read_queries(folder, say=print)
    assert queries[0].prompt == "a"
    assert retrieval.generation_facts(folder, queries, None).images_per_prompt == 4


def test_sources_are_found_by_key_wherever_the_folder_lies(tmp_path):
    train = tmp_path / "data" / "train"
    for key in ("cat/1.png", "cat/2.png"):
        (train / key).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(train / key)
    training = image_sets.list_images("--val_dir", train)
    queries = [
        Query("a", source_image=k)
        for k in ("train/cat/2.png", "cat/1.png", "elsewhere/cat/1.png", None)
    ]
    sources = retrieval.source_keys(tmp_path, queries, training)
    sets = Sets(None, queries, training, TrainingFacts(sources=sources))
    assert np.array_equal(source_indices(sets), [1, 0, -1, -1])


@pytest.fixture
def read(folder, scenes_dir):
    """read(--val_dir, ...) -> (Sets, the lines that were said), of the twelve images of
    `folder`."""

    def read(val_dir=scenes_dir / "train", **given):
        lines = []
        opts = RetrievalOptions(
            **({"query_dir": str(folder), "val_dir": str(val_dir), "pt_style": "pixel"} | given)
        )
        sets = retrieval.read_sets(evaluation_stage.request_of(opts).inputs, say=lines.append)
        measurement.require_possible(opts.metrics, sets)
        return sets, lines

    return read


def test_captions_of_training_images_are_from_the_file_that_is_named(read, scenes_dir, tmp_path):
    given = json.loads((scenes_dir / "captions.json").read_text())
    (tmp_path / "captions.json").write_text(
        json.dumps({str(scenes_dir / k): [f"{c[0]} anew", "second"] for k, c in given.items()})
    )
    sets, lines = read(val_captions=str(tmp_path / "captions.json"))
    assert sets.known.captions == {
        k.removeprefix("train/"): f"{c[0]} anew" for k, c in given.items()
    }
    assert lines == []
    assert read()[0].known.captions == {}
    (tmp_path / "captions.json").write_text(
        json.dumps({str(scenes_dir / k): c for k, c in list(given.items())[1:]})
    )
    with pytest.raises(DataError, match="1 of 12 images have no caption"):
        read(val_captions=str(tmp_path / "captions.json"))
    with pytest.raises(UsageError, match="--val_captions='/no/such' does not exist"):
        read(val_captions="/no/such")


@pytest.fixture
def shards(tmp_path):
    """Three images in two tar files, two of which have captions, and a member that is not taken."""
    (tmp_path / "shards").mkdir()
    tars.write(
        tmp_path / "shards" / "00000.tar",
        tars.sample("000", tars.png(9), caption="a cat", url="u")
        | tars.sample("001", tars.png(8))
        | {"../002.png": tars.png(7)},
    )
    tars.write(tmp_path / "shards" / "00001.tar", tars.sample("000", tars.png(6), caption="a dog"))
    return tmp_path / "shards"


def test_tar_shards_are_read_in_place_with_their_captions(read, shards, tmp_path):
    for source in (shards, shards / "{00000..00001}.tar", shards / "*.tar"):
        sets, _ = read(source)
        assert sets.training.keys == ("00000.tar/000.png", "00000.tar/001.png", "00001.tar/000.png")
        assert sets.known.captions == {"00000.tar/000.png": "a cat", "00001.tar/000.png": "a dog"}
        assert sets.training.bad == (("00000.tar/../002.png", "its name has .. as a part"),)
        assert [np.asarray(sets.training.open(i))[0, 0, 0] for i in range(3)] == [9, 8, 6]
    assert len(read(shards / "00001.tar")[0].training) == 1
    # --val_captions goes before them
    (tmp_path / "c.json").write_text(
        json.dumps({str(shards / k): "mine" for k in sets.training.keys})
    )
    assert set(read(shards, val_captions=str(tmp_path / "c.json"))[0].known.captions.values()) == {
        "mine"
    }
    with pytest.raises(UsageError, match=r"--val_dir='.*' matches no file; use tar files"):
        read(shards / "1*.tar")


def test_sources_in_shards_are_found_as_training_named_them(read, folder, shards):
    rows = [
        {
            "file": f"generations/{i}.png",
            "index": i,
            "seed": i,
            "prompt": "p",
            "source_prompt": "s",
            "source_image": "00001.tar/000.png" if i else "00000.tar/001.png",
        }
        for i in range(12)
    ]
    whole_files.write_manifest(folder / "manifest.json", "generation", images=rows, settings={})
    sets, _ = read(shards)
    assert source_indices(sets).tolist() == [1] + [2] * 11


def test_captions_and_duplicates_of_a_run_reach_the_same_images_elsewhere(
    read, micro_run, scenes_dir, tmp_path
):
    """The run was trained on scenes_dir; what is measured is a copy of its images, one of them
    absent, one added."""
    shutil.copytree(scenes_dir / "train", tmp_path / "elsewhere" / "train")
    duplicated = json.loads((micro_run / "run.json").read_text())["duplicated"]
    given = json.loads((scenes_dir / "captions.json").read_text())
    plain = next(
        k for k in given if not any(d.endswith(k.removeprefix("train/")) for d in duplicated)
    )
    (tmp_path / "elsewhere" / plain).unlink()
    Image.new("RGB", (8, 8)).save(tmp_path / "elsewhere" / "train" / "added.png")
    sets, lines = read(tmp_path / "elsewhere" / "train", run=str(micro_run))
    assert sets.known.captions == {
        k.removeprefix("train/"): c[0] for k, c in given.items() if k != plain
    }
    assert len(sets.known.captions) == 11
    assert sorted(sets.known.duplicated) == sorted(
        k for k in sets.training.keys if any(d.endswith(k) for d in duplicated)
    )
    assert len(sets.known.duplicated) == len(duplicated) == 3
    assert lines == []
    # --val_captions goes before those of the run
    (tmp_path / "c.json").write_text(
        json.dumps({str(tmp_path / "elsewhere/train" / k): "mine" for k in sets.training.keys})
    )
    sets, _ = read(
        tmp_path / "elsewhere" / "train", run=str(micro_run), val_captions=str(tmp_path / "c.json")
    )
    assert set(sets.known.captions.values()) == {"mine"}


@pytest.fixture
def holding_run(micro_run, tmp_path):
    """holding_run(count) -> (a run that held that many of the scenes out, their keys)."""

    def made(count):
        run = tmp_path / f"holding{count}"
        run.mkdir()
        record = json.loads((micro_run / "run.json").read_text())
        texts = json.loads((micro_run / "captions.json").read_text())
        held = [k for k in texts if k not in record["duplicated"]][:count]
        if count == len(texts):
            held = list(texts)
        (run / "run.json").write_text(json.dumps(record | {"holdout": held}))
        kept = {k: v for k, v in texts.items() if k not in held}
        (run / "captions.json").write_text(json.dumps(kept))
        return run, held

    return made


def test_held_out_images_of_a_run_are_no_training_images(
    read, folder, holding_run, scenes_dir, tmp_path
):
    run, held = holding_run(4)
    shutil.copytree(scenes_dir / "train", tmp_path / "moved" / "train")
    for val_dir in (scenes_dir / "train", scenes_dir, tmp_path / "moved"):
        sets, lines = read(val_dir, run=str(run))
        assert lines == [
            "4 of 12 images in --val_dir were held out; they are innocents, not training images"
        ]
        assert len(sets.training) == len(sets.known.captions) == 8
        assert {k.removeprefix("train/") for k in sets.held_out.keys} == set(held)
        assert set(sets.known.holdout) == set(sets.held_out.keys)
        assert not set(sets.known.holdout) & set(sets.training.keys)
        assert len(sets.known.duplicated) == 3
    # a prompt of a held-out image has no training image, which is no reason to warn
    rows = [
        {
            "file": f"generations/{i}.png",
            "index": i,
            "seed": i,
            "prompt": "p",
            "source_prompt": "s",
            "source_image": held[i % 4],
        }
        for i in range(12)
    ]
    whole_files.write_manifest(folder / "manifest.json", "generation", images=rows, settings={})
    sets, lines = read(run=str(run))
    assert len(lines) == 1
    assert source_indices(sets).tolist() == [-1] * 12
    assert sets.known.sources == {}


def test_an_image_in_the_place_of_a_held_out_one_stays(read, holding_run, scenes_dir, tmp_path):
    """A training image whose path ends like the name of a held-out image, which is absent."""
    run, held = holding_run(1)
    shutil.copytree(scenes_dir / "train", tmp_path / "train")
    (tmp_path / "train" / held[0]).unlink()
    deeper = tmp_path / "train" / "more" / held[0]
    deeper.parent.mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(deeper)
    texts = json.loads((run / "captions.json").read_text())
    (run / "captions.json").write_text(json.dumps(texts | {f"more/{held[0]}": ["x"]}))
    sets, lines = read(tmp_path / "train", run=str(run))
    assert (sets.known.holdout, sets.held_out, lines) == ([], None, [])
    assert len(sets.training) == 12


def test_a_folder_of_held_out_images_alone_is_refused(read, holding_run):
    with pytest.raises(UsageError, match="--val_dir=.*: all 12 images were held out by the run"):
        read(run=str(holding_run(12)[0]))


def test_without_a_holdout_all_images_are_training_images(read, micro_run):
    sets, lines = read(run=str(micro_run))
    assert (sets.known.holdout, sets.held_out, lines) == ([], None, [])
    assert len(sets.training) == 12
    assert read()[0].known.holdout is None


def test_duplicates_that_are_not_all_there_are_not_known(read, micro_run, scenes_dir, tmp_path):
    shutil.copytree(scenes_dir / "train", tmp_path / "train")
    record = json.loads((micro_run / "run.json").read_text())
    first = next(
        p for p in (tmp_path / "train").rglob("*.png") if record["duplicated"][0].endswith(p.name)
    )
    first.unlink()
    sets, lines = read(tmp_path / "train", run=str(micro_run))
    assert sets.known.duplicated is None
    assert lines == [
        f"1 duplicated images of {micro_run / 'run.json'} are not in --val_dir; duplication is"
        " skipped"
    ]
    with pytest.raises(UsageError, match="--metrics='duplication' cannot be computed"):
        read(tmp_path / "train", run=str(micro_run), metrics=("duplication",))


def test_generated_images_below_the_training_images_are_said_with_their_number(
    read, folder, tmp_path
):
    sets, lines = read(folder)
    assert lines == [
        f"--val_dir={str(folder)!r} contains 12 images of --query_dir, each of which will match"
        " itself"
    ]
    assert len(sets.training) == 12
    # found through a link too, and counted where some alone are shared
    (tmp_path / "link").symlink_to(folder / "generations")
    for i in range(3, 12):
        (folder / "generations" / f"{i}.png").unlink()
    Image.new("RGB", (4, 4)).save(folder / "other.png")
    _, lines = read(tmp_path / "link")
    assert [line.split("contains ")[1].split(" images")[0] for line in lines] == ["3"]
    Image.new("RGB", (4, 4)).save(tmp_path / "lone.png")
    (tmp_path / "apart").mkdir()
    shutil.copy(tmp_path / "lone.png", tmp_path / "apart")
    assert read(tmp_path / "apart")[1] == []


@pytest.mark.parametrize(
    ("lines", "found"), [("a\nb\nc\n", 4), ("a\n", 12), ("a\nb\nc\nd\ne\n", None), (None, None)]
)
def test_images_per_prompt_of_a_published_folder(read, folder, lines, found):
    if lines is not None:
        (folder / "prompts.txt").write_text(lines)
    assert read()[0].generation.images_per_prompt == found


def test_a_manifest_says_itself_which_prompt_an_image_has(read, folder):
    (folder / "prompts.txt").write_text("a\nb\nc\n")
    rows = [
        {"file": f"generations/{i}.png", "index": i, "seed": i, "prompt": "p", "source_prompt": "s"}
        for i in range(12)
    ]
    whole_files.write_manifest(folder / "manifest.json", "generation", images=rows, settings={})
    sets, _ = read()
    assert sets.generation.images_per_prompt is None
    assert {q.source_prompt for q in sets.queries} == {"s"}


def test_names_that_fit_several_training_images_or_none_are_said(tmp_path):
    train, told = tmp_path / "train", []
    for key in ("a/1.png", "b/1.png"):
        (train / key).parent.mkdir(parents=True)
        Image.new("RGB", (4, 4)).save(train / key)
    training = image_sets.list_images("--val_dir", train)
    opts = SimpleNamespace(query_dir=str(tmp_path), val_dir=str(train))
    assert (
        retrieval._sources(opts, [Query("0.png", source_image="1.png")], training, told.append)
        == {}
    )
    assert told[0].startswith("the training images of the prompts are not used: ")
    assert (
        retrieval._sources(opts, [Query("0.png", source_image="9.png")], training, told.append)
        == {}
    )
    assert told[1].startswith(
        "none of the 1 training images that the manifest names is in --val_dir="
    )
    assert retrieval._sources(
        opts, [Query("0.png", source_image="b/1.png")], training, told.append
    ) == {"b/1.png": "b/1.png"}
    assert len(told) == 2
