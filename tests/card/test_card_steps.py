from pathlib import Path

from utils.card.card_steps import BASE, TRAINING, Commands
from utils.files import whole_files


def measuring_words(folder, innocents, step):
    given = ("--innocent_dir", str(innocents), "--num_workers", "0")
    commands = Commands(Path(folder), (), ("--val_dir", "train"), given, ())
    words = commands.evaluate(step, None)
    return words[words.index("train") + 1 : words.index("--report_to")]


def test_images_of_the_base_model_are_named_as_such_where_it_is_measured_itself(tmp_path):
    made = tmp_path / "made"
    made.mkdir()
    as_given = ["--innocent_dir", str(made), "--num_workers", "0"]
    assert measuring_words(tmp_path, made, BASE) == as_given  # pictures that no model made
    manifest = {"settings": {"modelpath": "hub/base"}, "images": []}
    whole_files.write_manifest(made / "manifest.json", "generation", run=None, **manifest)
    assert measuring_words(tmp_path, made, TRAINING) == as_given
    assert measuring_words(tmp_path, made, BASE) == ["--base_dir", *as_given[1:]]
    whole_files.write_manifest(made / "manifest.json", "generation", run="../run", **manifest)
    assert measuring_words(tmp_path, made, BASE) == as_given
