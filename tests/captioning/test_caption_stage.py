import json
import re
import shutil
import subprocess
import sys

import pytest
import torch

from tests import tars
from tests.conftest import ROOT, SEED_FLAGS
from tests.launchers import launched
from utils.captioning import caption_stage
from utils.captioning.captioner import Captioner

MODULE = "utils.captioning"


@pytest.fixture
def pictures(scenes_dir, tmp_path):
    """Five scenes in a folder of their own."""
    folder = tmp_path / "pictures"
    for path in sorted((scenes_dir / "train").rglob("*.png"))[:5]:
        (folder / path.parent.name).mkdir(parents=True, exist_ok=True)
        shutil.copy(path, folder / path.parent.name)
    return folder


@pytest.fixture
def words(pictures, micro_blip):
    """words(out, *flags) -> the words of a command that captions the five scenes."""

    def build(out, *extra):
        return [
            "--instance_data_dir",
            str(pictures),
            "--captioner",
            str(micro_blip),
            "--out",
            str(out),
            "--num_captions",
            "3",
            "--batch_size",
            "2",
            "--num_workers",
            "0",
            *map(str, extra),
        ]

    return build


@pytest.fixture
def caption(script, words):
    """caption(out, *flags) -> (the captions file, what the command printed)."""

    def run(out, *extra):
        said = script(f"{MODULE}.__main__", *words(out, *extra))
        return json.loads(out.read_text()), said

    return run


def test_every_image_gets_captions_in_the_order_of_the_images(caption, pictures, tmp_path):
    captions, said = caption(tmp_path / "c.json")
    files = {p.relative_to(pictures).as_posix() for p in pictures.rglob("*.png")}
    assert set(captions) == files
    assert all(len(listed) == 3 for listed in captions.values())
    distinct = {key: len(set(listed)) for key, listed in captions.items()}
    mean, fewest = sum(distinct.values()) / 5, min(distinct.values())
    assert (
        f"5 images have 15 captions; distinct captions an image: {mean:.1f} on average,"
        f" {fewest} at least"
    ) in said
    assert [p.name for p in tmp_path.glob("c.json*")] == ["c.json"]


def test_captions_do_not_depend_on_batches_or_on_other_images(caption, pictures, tmp_path):
    first, _ = caption(tmp_path / "1.json")
    for number, flags in enumerate((("--batch_size", 1), ("--batch_size", 5, "--num_workers", 1))):
        assert caption(tmp_path / f"b{number}.json", *flags)[0] == first
    gone = sorted(first)[2]
    (pictures / gone).unlink()
    fewer, _ = caption(tmp_path / "2.json")
    assert fewer == {key: listed for key, listed in first.items() if key != gone}


def test_two_processes_write_the_file_of_one(caption, words, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    caption(tmp_path / "one.json")
    launched(2, MODULE, *words(tmp_path / "two.json"))
    assert (tmp_path / "two.json").read_bytes() == (tmp_path / "one.json").read_bytes()
    assert sorted(p.name for p in tmp_path.glob("two*")) == ["two.json"]


def test_a_killed_command_continues_to_the_same_file(caption, words, tmp_path, monkeypatch):
    caption(tmp_path / "whole.json")
    out, calls, sampled = tmp_path / "c.json", [], Captioner.captions

    def killed_after_one_batch(*arguments):
        calls.append(arguments)
        if len(calls) > 2:  # the first captions the empty pictures
            raise SystemExit(137)
        return sampled(*arguments)

    monkeypatch.setattr(Captioner, "captions", killed_after_one_batch)
    with pytest.raises(SystemExit):
        caption(out)
    part = out.with_name("c.json.part")
    assert not out.exists()
    assert len(part.read_text().splitlines()) == 3
    # the process was killed while it wrote a line
    part.write_text(part.read_text() + '{"image": "circle/')
    monkeypatch.setattr(Captioner, "captions", sampled)
    _, said = caption(out, "--batch_size", 3)
    assert "continues: 2 of 5 images are captioned" in said
    assert out.read_bytes() == (tmp_path / "whole.json").read_bytes()
    assert not part.exists()


@pytest.mark.parametrize(
    ("flag", "value"), [("--seed", 1), ("--top_p", 0.5), ("--num_captions", 4)]
)
def test_a_part_with_other_settings_is_refused(refused, words, tmp_path, flag, value):
    out = tmp_path / "c.json"
    out.with_name("c.json.part").write_text('{"seed": 0}\n')
    line = refused(f"{MODULE}.__main__", *words(out, flag, value))
    assert re.search(r"--\w+=.*c.json.part.* holds captions that were made with another one", line)


@pytest.mark.parametrize(
    ("flag", "value", "wanted"),
    [
        ("--out", "c.txt", "use a name that ends in .json"),
        ("--max_length", 4, "--min_length=5 is more than --max_length=4"),
        ("--instance_data_dir", "nowhere", "does not exist; give an existing folder"),
        ("--captioner", "./nowhere", "does not exist; use a folder as transformers'"),
        ("--top_p", 0, "use a number above 0"),
    ],
)
def test_what_cannot_be_used_is_refused_and_nothing_is_written(
    refused, words, tmp_path, flag, value, wanted
):
    assert wanted in refused(f"{MODULE}.__main__", *words(tmp_path / "c.json", flag, value))
    assert list(tmp_path.glob("c.json*")) == []


def test_an_existing_file_is_never_replaced(refused, words, tmp_path):
    (tmp_path / "c.json").write_text("mine")
    line = refused(f"{MODULE}.__main__", *words(tmp_path / "c.json"))
    assert "exists; give a new file" in line
    assert (tmp_path / "c.json").read_text() == "mine"


def test_without_the_model_a_line_says_what_was_tried_and_how_to_give_a_folder(
    refused, words, tmp_path, monkeypatch
):
    monkeypatch.setenv("HF_HOME", str(tmp_path / "empty"))
    line = refused(
        f"{MODULE}.__main__", *words(tmp_path / "c.json", "--captioner", "Salesforce/none-such")
    )
    assert "could not be loaded from the local cache (HF_HUB_OFFLINE is set)" in line
    assert (
        "hf download Salesforce/none-such --local-dir FOLDER) and pass --captioner FOLDER" in line
    )
    assert list(tmp_path.glob("c.json*")) == []


def test_captions_that_images_have_stay_first(caption, pictures, tmp_path):
    sampled, _ = caption(tmp_path / "without.json")
    given = {key: [f"my {key}", "again"] for key in sampled}
    (tmp_path / "mine.json").write_text(json.dumps(given))
    captions, said = caption(tmp_path / "c.json", "--instance_prompt_loc", tmp_path / "mine.json")
    assert captions == {key: given[key] + listed for key, listed in sampled.items()}
    assert "5 of 5 images have captions already; they stay first" in said
    del given[sorted(given)[0]]
    (tmp_path / "few.json").write_text(json.dumps(given))
    captions, said = caption(tmp_path / "d.json", "--instance_prompt_loc", tmp_path / "few.json")
    assert captions == {key: given.get(key, []) + listed for key, listed in sampled.items()}
    assert "4 of 5 images have captions already" in said


def test_captions_beside_the_images_of_a_folder_stay_first(caption, pictures, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(pictures, data)
    first = min(p for p in data.rglob("*") if p.suffix in (".png", ".jpg"))
    first.with_suffix(".txt").write_text("mine\n")
    captions, said = caption(tmp_path / "c.json", "--instance_data_dir", data)
    assert captions[first.relative_to(data).as_posix()][0] == "mine"
    assert "captions of 1 of 5 images are read from a text (.txt or .caption) beside" in said
    assert "1 of 5 images have captions already; they stay first" in said


def test_images_in_tar_files_are_captioned_after_their_own_captions(caption, scenes_dir, tmp_path):
    members = tars.sample("a", tars.noise(1), caption="mine") | tars.sample("b", tars.noise(2))
    tars.write(tmp_path / "0.tar", members)
    captions, said = caption(tmp_path / "c.json", "--instance_data_dir", tmp_path / "0.tar")
    assert list(captions) == ["0.tar/a.png", "0.tar/b.png"]
    assert [len(listed) for listed in captions.values()] == [4, 3]
    assert captions["0.tar/a.png"][0] == "mine"
    assert "1 of 2 images have captions already" in said


def test_an_image_that_cannot_be_read_is_named_and_left_out(caption, pictures, tmp_path):
    (pictures / "broken.png").write_bytes(b"no image")
    captions, said = caption(tmp_path / "c.json")
    assert "skipped: broken.png (is not an image)" in said
    assert len(captions) == 5


def test_too_many_unreadable_images_are_an_error_that_keeps_the_captions(
    refused, caption, words, pictures, tmp_path
):
    out = tmp_path / "c.json"
    for number in range(3):
        (pictures / f"{number}.png").write_bytes(b"no image")
    line = refused(f"{MODULE}.__main__", *words(out))
    assert "3 of 8 images that cannot be read" in line
    assert not out.exists()
    captions, said = caption(out, "--max_bad_images", 0.5)
    assert "continues: 5 of 8" in said
    assert len(captions) == 5


def test_a_dry_run_shows_what_was_recognised_and_writes_nothing(script, words, tmp_path):
    out = tmp_path / "c.json"
    shown = json.loads(script(f"{MODULE}.__main__", *words(out, "--dry_run")))
    assert shown["images"] == 5
    assert shown["captions_an_image"] == 3
    assert shown["writes"][0] == str(out)
    assert list(tmp_path.glob("c.json*")) == []


def test_the_file_trains_a_model(caption, script, pictures, micro_sd, tmp_path):
    caption(tmp_path / "c.json")
    script(
        "diff_train",
        "--pretrained_model_name_or_path",
        micro_sd,
        "--instance_data_dir",
        pictures,
        "--instance_prompt_loc",
        tmp_path / "c.json",
        "--class_prompt",
        "instancelevel_blip",
        "--duplication",
        "dup_image",
        "--resolution",
        16,
        "--max_train_steps",
        2,
        "--train_batch_size",
        2,
        "--output_dir",
        tmp_path / "run",
        *SEED_FLAGS,
    )
    recorded = json.loads((tmp_path / "run" / "captions.json").read_text())
    written = json.loads((tmp_path / "c.json").read_text())
    assert list(recorded.values()) == list(written.values())


def test_distinct_captions_are_counted_by_image():
    line = caption_stage.statistics_line({"a": ["x", "x", "y"], "b": ["x", "y", "z"]})
    assert line == (
        "2 images have 6 captions; distinct captions an image: 2.5 on average, 2 at least (a)"
    )


def test_help_answers_without_torch():
    code = (
        "import sys; from utils.cli import flags, captioning_options as c; import"
        " utils.captioning.__main__; flags.build_parser(c.CaptioningOptions, description='');"
        " print('torch' in sys.modules)"
    )
    told = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert told.stdout.strip() == "False"
