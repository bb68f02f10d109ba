import pytest

from utils.captioning.caption_parts import CaptionParts
from utils.runtime.errors import UsageError

SETTINGS = {"seed": 1, "instance_data_dir": {"images": 3}}


def test_a_process_adds_to_its_own_part_and_all_are_read(tmp_path):
    out = tmp_path / "c[1].json"
    for process in (0, 1):
        parts = CaptionParts(out, process=process)
        parts.begin(SETTINGS, {})
        with parts.appending() as part:
            parts.append(part, {f"{process}.png": ["a", "b"]})
    assert CaptionParts(out).read(SETTINGS) == {"0.png": ["a", "b"], "1.png": ["a", "b"]}
    CaptionParts(out).remove()
    assert list(tmp_path.iterdir()) == []


def test_the_first_process_takes_over_what_a_run_of_more_processes_left(tmp_path):
    out = tmp_path / "c.json"
    left = CaptionParts(out, process=7)
    left.begin(SETTINGS, {"a.png": ["x"]})
    first = CaptionParts(out)
    first.begin(SETTINGS, first.read(SETTINGS))
    assert [p.name for p in tmp_path.iterdir()] == ["c.json.part"]
    assert first.read(SETTINGS) == {"a.png": ["x"]}


def test_other_settings_are_refused_by_name(tmp_path):
    parts = CaptionParts(tmp_path / "c.json")
    parts.begin(SETTINGS, {})
    with pytest.raises(UsageError, match="--seed=2: .* holds captions that were made with another"):
        parts.read(SETTINGS | {"seed": 2})
    with pytest.raises(UsageError, match=r"^--instance_data_dir: "):
        parts.read(SETTINGS | {"instance_data_dir": {"images": 4}})


def test_a_file_of_another_program_is_refused(tmp_path):
    (tmp_path / "c.json.part").write_text("[1]\n")
    with pytest.raises(UsageError, match="is no part of a captions file"):
        CaptionParts(tmp_path / "c.json").read(SETTINGS)
