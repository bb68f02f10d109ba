import csv

from utils.reports import tables


def test_csv_survives_commas_quotes_newlines_and_missing_values(tmp_path):
    path = tmp_path / "t.csv"
    tables.write_csv(path, ("a", "b"), [{"a": 'x,"y"\nz', "b": None}, {"a": "é"}])
    with open(path, newline="", encoding="utf-8") as handle:
        assert list(csv.DictReader(handle)) == [{"a": 'x,"y"\nz', "b": ""}, {"a": "é", "b": ""}]


def test_markdown_is_aligned():
    assert tables.markdown(("a", "long"), [["xyz", 1]]) == "| a   | long |\n|-----|------|\n| xyz | 1    |"
