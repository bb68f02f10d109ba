import errno
import threading
import time

import pytest
from PIL import Image

from utils.files import generation_folder, whole_files
from utils.generation.sampling import GeneratedImage, ImageJob
from utils.runtime.errors import DataError, UsageError

SETTINGS = {"seed": 1, "guidance_scale": 3.0}


def job(index, prompt="a red circle"):
    return ImageJob(index, 100 + index, prompt, prompt, None)


def image(index, prompt="a red circle", **notes):
    return GeneratedImage(job(index, prompt), Image.new("RGB", (4, 4)), notes)


def test_published_names():
    assert generation_folder.generation_name([]) == "gen_nomit"
    assert generation_folder.generation_name(["ginfer0.1"]) == "gen_ginfer0.1"
    assert (
        generation_folder.generation_name(["ginfer0.1", "auginfer_x_2"])
        == "gen_ginfer0.1_auginfer_x_2"
    )


def test_an_interrupted_generation_continues_with_what_is_whole(tmp_path):
    folder = generation_folder.Generation(tmp_path / "g")
    folder.begin(SETTINGS)
    rows = list(folder.save(map(image, range(3))))
    (folder.path / rows[1]["file"]).unlink()  # a line without its image is made again
    with open(folder.part_path, "a") as handle:
        handle.write('{"file": "generations/3.p')  # cut off in the middle of a line
    assert sorted(r["index"] for r in folder.rows(SETTINGS)) == [0, 2]
    with pytest.raises(UsageError, match="--guidance_scale=7.5: .* holds a generation with 3.0"):
        folder.rows(SETTINGS | {"guidance_scale": 7.5})


def test_a_finished_generation_is_found_and_its_part_is_gone(tmp_path):
    folder = generation_folder.Generation(tmp_path / "g")
    folder.begin(SETTINGS)
    list(folder.save([image(1, "two\nlines\\", guided_from=5.0), image(0, "two\nlines\\")]))
    assert [
        r["index"]
        for r in folder.finish(
            len(list((folder.path / "generations").iterdir())), settings=SETTINGS
        )
    ] == [
        0,
        1,
    ]
    assert [r["index"] for r in folder.rows(SETTINGS)] == [0, 1]
    assert whole_files.read_json(folder.manifest_path)["images"][1]["guided_from"] == 5.0
    assert folder.prompts_path.read_text() == "two\\nlines\\\\\n" * 2
    assert not folder.part_path.exists()
    with pytest.raises(UsageError, match="--seed=2"):
        folder.rows(SETTINGS | {"seed": 2})


def test_processes_write_parts_of_their_own_which_the_next_run_takes_over(tmp_path):
    first, second = (generation_folder.Generation(tmp_path, process=n) for n in (0, 1))
    for folder, indices in ((first, (0, 1)), (second, (2, 3))):
        folder.begin(SETTINGS)
        list(folder.save(map(image, indices)))
    assert second.part_path.name == "manifest.jsonl.part.1"
    assert sorted(r["index"] for r in second.rows(SETTINGS)) == [0, 1, 2, 3]
    # killed; now one process goes on
    alone = generation_folder.Generation(tmp_path)
    alone.begin(SETTINGS, alone.rows(SETTINGS))
    assert not second.part_path.exists()
    list(alone.save([image(4)]))
    assert [r["index"] for r in alone.finish(5, settings=SETTINGS)] == [0, 1, 2, 3, 4]
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "generations",
        "manifest.json",
        "prompts.txt",
    ]


def test_a_finished_generation_that_lost_images_makes_those_alone_even_when_killed_again(tmp_path):
    folder = generation_folder.Generation(tmp_path)
    folder.begin(SETTINGS)
    rows = list(folder.save(map(image, range(4))))
    folder.finish(len(list((folder.path / "generations").iterdir())), settings=SETTINGS)
    for row in rows[2:]:
        (tmp_path / row["file"]).unlink()
    folder.begin(SETTINGS, folder.rows(SETTINGS))
    list(folder.save([image(2)]))  # and killed
    assert [r["index"] for r in folder.rows(SETTINGS)] == [0, 1, 2]


def test_saving_runs_beside_making_and_holds_few_images(tmp_path, monkeypatch):
    folder = generation_folder.Generation(tmp_path)
    folder.begin(SETTINGS)
    gate, made = threading.Event(), []

    def images():
        for index in range(5):
            made.append(index)
            if index == 4:
                gate.set()
            yield image(index)

    real = folder._save_image
    # no image is saved before the fifth is made: making does not wait for saving
    monkeypatch.setattr(folder, "_save_image", lambda i: gate.wait(20) and real(i))
    assert [r["index"] for r in folder.save(images(), waiting=4)] == [0, 1, 2, 3, 4]
    made.clear()
    gate.clear()
    threading.Timer(0.3, gate.set).start()
    next(folder.save((image(i) for i in iter(lambda: made.append(0) or len(made), 99)), waiting=3))
    assert len(made) == 4  # and never runs further ahead than that


def test_a_stop_while_images_are_made_loses_no_line(tmp_path):
    """Ctrl-C comes while the next batch is made; what is saved by then, and what was being saved,
    has its line."""
    folder = generation_folder.Generation(tmp_path)
    folder.begin(SETTINGS)

    def stopped():
        yield from map(image, range(3))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(folder.save(stopped()))
    assert sorted(r["index"] for r in folder.rows(SETTINGS)) == [0, 1, 2]


def test_a_line_is_written_without_waiting_for_the_next_image(tmp_path):
    folder = generation_folder.Generation(tmp_path)
    folder.begin(SETTINGS)

    def slow():
        yield image(0)
        for _ in range(500):
            if folder.rows(SETTINGS):
                return
            time.sleep(0.02)
        pytest.fail("no line while the next image was made")

    assert len(list(folder.save(slow()))) == 1


def test_two_commands_do_not_share_a_folder(tmp_path):
    first, second = generation_folder.Generation(tmp_path), generation_folder.Generation(tmp_path)
    with first.locked() as one, second.locked() as two:
        assert (one, two) == (True, False)
        first.require_unshared(one)
        with pytest.raises(UsageError, match=r"--savepath=.* is being written by another command"):
            second.require_unshared(two)
    with second.locked() as again:  # a command that ended, or died, leaves no lock
        assert again


def test_an_incomplete_generation_gets_no_manifest(tmp_path):
    folder = generation_folder.Generation(tmp_path)
    folder.begin(SETTINGS)
    list(folder.save([image(0)]))
    with pytest.raises(
        DataError, match="1 of 2 images have a line in the manifest; run the same command"
    ):
        folder.finish(2, settings=SETTINGS)
    assert folder.part_path.exists()
    assert not folder.manifest_path.exists()


def test_settings_that_differ_are_named_by_the_flag_that_leads(tmp_path):
    folder = generation_folder.Generation(tmp_path)
    folder.begin({"cfg_start": 500.0, "cfg_before": 0.0, "lora": "abc"})
    with pytest.raises(
        UsageError,
        match=r"^--cfg_start was not given: .* holds a generation with 500.0; use the same value",
    ):
        folder.rows({"cfg_start": None, "cfg_before": None, "lora": "abc"})
    with pytest.raises(UsageError, match="^--lora: .* holds a generation with none"):
        folder._require_same({"lora": None}, {"lora": "abc"})
    with pytest.raises(UsageError, match="^--lora: .* holds a generation with another one"):
        folder.rows({"cfg_start": 500.0, "cfg_before": 0.0, "lora": "xyz"})


def test_an_image_that_cannot_be_saved_ends_the_run_and_loses_none_before_it(tmp_path, monkeypatch):
    folder = generation_folder.Generation(tmp_path)
    folder.begin(SETTINGS)
    real = folder._save_image

    def full(made):
        if made.job.index == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(made)

    monkeypatch.setattr(folder, "_save_image", full)
    with pytest.raises(OSError, match="No space left"):
        list(folder.save(map(image, range(5)), waiting=1))
    # those after it that were saved have a line too
    lines = sorted(r["index"] for r in folder.rows(SETTINGS))
    assert lines == sorted(int(p.stem) for p in (tmp_path / "generations").iterdir())
    assert lines[:2] == [0, 1]


def test_images_of_somebody_else_are_not_overwritten(tmp_path):
    (tmp_path / "generations").mkdir()
    with pytest.raises(UsageError, match="holds generations but no manifest of this toolkit"):
        generation_folder.Generation(tmp_path).rows(SETTINGS)


def test_errors_name_the_flags_that_named_the_folder(tmp_path):
    folder = generation_folder.Generation(tmp_path / "g", flags=("--class_data_dir",))
    folder.begin(SETTINGS)
    with pytest.raises(UsageError, match="use the same value, or another --class_data_dir$"):
        folder.rows(SETTINGS | {"guidance_scale": 7.5})
    with pytest.raises(UsageError, match="^--class_data_dir=.* is being written"):
        folder.require_unshared(False)


def test_a_generation_manifest_without_images_is_an_error(tmp_path):
    whole_files.write_manifest(tmp_path / "manifest.json", "generation", images=[])
    with pytest.raises(DataError, match="lists no images"):
        generation_folder.read_queries_manifest(tmp_path)


def test_an_incomplete_or_unfinished_manifest_is_named(tmp_path):
    whole_files.write_manifest(
        tmp_path / "manifest.json", "generation", images=[{"file": "0.png", "prompt": "x"}]
    )
    with pytest.raises(DataError, match="image 0 has no 'source_prompt'"):
        generation_folder.read_queries_manifest(tmp_path)
    (tmp_path / "manifest.json").rename(tmp_path / "manifest.jsonl.part")
    with pytest.raises(
        DataError, match="is an unfinished generation; run its command again to finish it"
    ):
        generation_folder.read_queries_manifest(tmp_path)


def test_a_path_below_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="file' is a file; use a new folder"):
        generation_folder.Generation(tmp_path / "file").rows({})
