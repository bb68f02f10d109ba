import numpy as np
import pytest

from benchmarks.study import rows
from tests.benchmarks.study.rows_by_hand import row
from utils.runtime.errors import DataError


def test_rows_come_back_as_they_were_written_sorted(tmp_path):
    path = tmp_path / "study.csv"
    lists = {"agreement": [0.6, np.nan], "duplicated": [1, 0], "entropy": [2.5, 1.25]}
    b = row("b", 1, score=[0.950001, 0.5], **lists)
    written = [b, row("a", 2, score=[0.1]), row("a", 1, score=[0.2], source=[7])]
    rows.write_rows(path, written)
    table = rows.read_rows(path)
    assert list(table) == ["a-1", "b-1", "a-2"]
    assert table["a-1"].source.tolist() == [7]
    b = table["b-1"]
    assert b.score.tolist() == [0.950001, 0.5]  # six digits: a copy stays a copy
    assert b.agreement == pytest.approx([0.6, np.nan], nan_ok=True)
    assert b.duplicated.tolist() == [1, 0]
    assert b.entropy.tolist() == [2.5, 1.25]
    assert b.jpeg_kib.tolist() == []
    assert (b.seed, b.seconds, b.machine) == (1, 6.0, "a machine, 2 cores")
    assert b.metrics["fd"] == 100.0
    assert "copy_share" not in b.metrics  # what was not measured is no number
    content = path.read_bytes()
    rows.write_rows(path, table.values())
    assert path.read_bytes() == content
    assert rows.read_rows(tmp_path / "none.csv") == {}


def test_a_row_that_is_measured_again_replaces_the_earlier_one(tmp_path):
    path = tmp_path / "study.csv"
    rows.write_rows(path, [row("b", 1, score=[0.5]), row("a", 1, score=[0.2], source=[7])])
    rows.add_row(path, row("c", 3, score=[0.3]))
    rows.add_row(path, row("a", 1, score=[0.25], source=[7]))
    table = [(r.arm, r.score[0]) for r in rows.read_rows(path).values()]
    assert table == [("a", 0.25), ("b", 0.5), ("c", 0.3)]


def test_a_file_of_another_version_is_an_error(tmp_path):
    path = tmp_path / "study.csv"
    path.write_text("key,arm\n1,base\n")
    with pytest.raises(DataError, match="study.csv: has other columns"):
        rows.read_rows(path)
