import csv

import pyarrow.parquet as pq
import pytest

from utils.reports import tables


def test_csv_survives_commas_quotes_newlines_and_missing_values(tmp_path):
    path = tmp_path / "t.csv"
    tables.write_csv(path, ("a", "b"), [{"a": 'x,"y"\nz', "b": None}, {"a": "é"}])
    with open(path, newline="", encoding="utf-8") as handle:
        assert list(csv.DictReader(handle)) == [{"a": 'x,"y"\nz', "b": ""}, {"a": "é", "b": ""}]


def test_parquet_keeps_types_and_long_tables(tmp_path):
    rows = (
        {"a": f"caf\udce9 {i}", "n": i, "x": None if i % 2 else f"{i / 4}", "b": i % 3 == 0}
        for i in range(25_000)
    )
    tables.write_parquet(
        tmp_path / "t.parquet", ("a", "n", "x", "b"), rows, numbers={"n": int, "x": float, "b": int}
    )
    found = pq.read_table(tmp_path / "t.parquet")
    assert found.num_rows == 25_000
    assert [str(t) for t in found.schema.types] == ["string", "int64", "double", "int64"]
    assert found.slice(24_996, 3).to_pylist() == [
        {"a": "caf? 24996", "n": 24_996, "x": 6249.0, "b": 1},
        {"a": "caf? 24997", "n": 24_997, "x": None, "b": 0},
        {"a": "caf? 24998", "n": 24_998, "x": 6249.5, "b": 0},
    ]
    assert [p.name for p in tmp_path.iterdir()] == ["t.parquet"]


def test_markdown_is_aligned():
    assert (
        tables.markdown(("a", "long"), [["xyz", 1]])
        == "| a   | long |\n|-----|------|\n| xyz | 1    |"
    )


@pytest.mark.parametrize(
    "text",
    ["=HYPERLINK(1)", "+1", "-x", "@x", "\tx", "\rx", "'=x", "''+x", "'", "'x", "x=1", "-1.5", ""],
)
def test_no_text_is_run_by_a_spreadsheet_and_each_reads_back_the_same(tmp_path, text):
    tables.write_csv(tmp_path / "t.csv", ["a", "b"], [{"a": text, "b": -0.5}])
    written = (tmp_path / "t.csv").read_bytes().decode().split("\n", 1)[1].lstrip('"')
    assert written.startswith(("'", "x", "-1.5", ","))
    assert tables.read_csv(tmp_path / "t.csv") == [{"a": text, "b": "-0.5"}]
