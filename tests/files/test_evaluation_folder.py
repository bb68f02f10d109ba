import pytest

from utils.files import evaluation_folder, whole_files
from utils.runtime.errors import DataError, UsageError


def test_an_evaluation_replaces_its_own_kind_only_and_keeps_the_old_one_on_failure(tmp_path):
    folder = evaluation_folder.Evaluation(tmp_path / "e")
    for number in (1, 2):
        with folder.require_ours().writing() as part:
            whole_files.write_manifest(part / "metrics.json", "evaluation", number=number)
    assert whole_files.read_json(folder.path / "metrics.json")["number"] == 2

    def fail():
        with folder.writing() as part:
            (part / "metrics.json").write_text("3")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        fail()
    assert whole_files.read_json(folder.path / "metrics.json")["number"] == 2
    assert [p.name for p in tmp_path.iterdir()] == ["e"]
    (folder.path / "thesis.docx").write_text("")
    with pytest.raises(UsageError, match="holds 'thesis.docx', which no evaluation wrote"):
        folder.require_ours()


def test_an_approximate_search_has_a_name_of_its_own():
    parts = {
        "pt_style": "sscd",
        "arch": "a/b",
        "preset": "dcr",
        "similarity_metric": "dotproduct",
        "fingerprint": "0123456789",
    }
    assert (
        evaluation_folder.evaluation_name(**parts, search=None)
        == "sscd-a_b-dcr-dotproduct-01234567"
    )
    assert (
        evaluation_folder.evaluation_name(**parts, search="ann")
        == "sscd-a_b-dcr-dotproduct-ann-01234567"
    )


def test_planned_are_the_files_it_is_told_of(tmp_path):
    assert evaluation_folder.Evaluation(tmp_path, ("a.json", "plots")).planned() == [
        f"{tmp_path}/a.json",
        f"{tmp_path}/plots",
    ]


def test_an_evaluation_with_a_long_table_is_ours_too(tmp_path):
    folder = evaluation_folder.Evaluation(tmp_path / "e")
    for _ in range(2):
        with folder.require_ours().writing() as part:
            whole_files.write_manifest(part / "metrics.json", "evaluation")
            (part / "matches.parquet").write_text("")


def test_folders_of_our_names_but_not_of_ours_are_left_alone(tmp_path):
    (tmp_path / "gallery").mkdir()
    (tmp_path / "gallery" / "holiday.png").write_text("")
    with pytest.raises(UsageError, match="holds 'gallery/holiday.png', which no evaluation wrote"):
        evaluation_folder.Evaluation(tmp_path).require_ours()
    (tmp_path / "gallery" / "holiday.png").rename(tmp_path / "metrics.json")
    with pytest.raises(DataError, match="metrics.json: is not JSON"):
        evaluation_folder.Evaluation(tmp_path).require_ours()
    (tmp_path / "metrics.json").write_text("[1]")
    with pytest.raises(UsageError, match="holds 'metrics.json', which no evaluation wrote"):
        evaluation_folder.Evaluation(tmp_path).require_ours()
