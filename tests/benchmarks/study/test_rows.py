import numpy as np
import pytest

from benchmarks.study import rows
from tests.benchmarks.study.rows_by_hand import row
from utils.runtime.errors import DataError


def test_rows_come_back_as_they_were_written_sorted_and_once(tmp_path):
    path = tmp_path / "study.csv"
    made = [
        row(
            "b",
            1,
            score=[0.950001, 0.5],
            agreement=[0.6, np.nan],
            duplicated=[1, 0],
            entropy=[2.5, 1.25],
        ),
        row("a", 2, score=[0.1]),
        row("a", 1, score=[0.2], source=[7]),
    ]
    rows.write_rows(path, made)
    found = rows.read_rows(path)
    assert list(found) == ["a-1", "b-1", "a-2"]
    assert found["a-1"].source.tolist() == [7]
    b = found["b-1"]
    assert b.score.tolist() == [0.950001, 0.5]  # six digits: a copy stays a copy
    assert b.agreement == pytest.approx([0.6, np.nan], nan_ok=True)
    assert (b.duplicated.tolist(), b.entropy.tolist(), b.jpeg_kib.tolist()) == (
        [1, 0],
        [2.5, 1.25],
        [],
    )
    assert (b.seed, b.seconds, b.machine) == (1, 6.0, "a machine, 2 cores")
    assert b.metrics["fd"] == 100.0
    assert "copy_share" not in b.metrics  # what was not measured is no number
    written = path.read_bytes()
    rows.write_rows(path, found.values())
    assert path.read_bytes() == written
    assert rows.read_rows(tmp_path / "none.csv") == {}
    rows.add_row(path, row("c", 3, score=[0.3]))
    rows.add_row(path, row("a", 1, score=[0.25], source=[7]))  # measured again
    assert [(r.arm, r.score[0]) for r in rows.read_rows(path).values()] == [
        ("a", 0.25),
        ("b", 0.950001),
        ("a", 0.1),
        ("c", 0.3),
    ]
    path.write_text("key,arm\n1,base\n")
    with pytest.raises(DataError, match="study.csv: has other columns"):
        rows.read_rows(path)
