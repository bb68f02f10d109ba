import pytest

from utils.data import tables
from utils.runtime.errors import DataError


def fields(path):
    return [row.fields for row in tables.rows(path)]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("t.csv", b'file_name,text\nb.png,"x, y"\n'),
        ("t.csv", b'\xef\xbb\xbffile_name,text\r\nb.png,"x, y"\r\n\r\n'),
        ("t.csv", b'file_name;text\r\nb.png;"x, y"\r\n'),
        ("t.tsv", b"file_name\ttext\nb.png\tx, y\n"),
        ("t.jsonl", b'\xef\xbb\xbf{"file_name": "b.png", "text": "x, y"}\r\n\r\n'),
    ],
)
def test_rows_of_all_that_editors_and_spreadsheets_write(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    assert fields(tmp_path / name) == [{"file_name": "b.png", "text": "x, y"}]


def test_a_value_of_several_lines_is_one_value(tmp_path):
    (tmp_path / "t.csv").write_text('file_name,text\na.png,"one\ntwo"\nb.png,x\n')
    rows = list(tables.rows(tmp_path / "t.csv"))
    assert rows[0].fields["text"] == "one\ntwo"
    assert rows[1].place.endswith("t.csv: line 4")


def test_a_comma_without_quotes_is_named_not_cut(tmp_path):
    (tmp_path / "t.csv").write_text("file_name,text\na.png,a cat, on a mat\n")
    with pytest.raises(DataError, match="line 2 has 3 values and the first line names 2 columns"):
        fields(tmp_path / "t.csv")


@pytest.mark.parametrize("line", ["nonsense", "[1]", "[" * 100_000])
def test_a_line_that_is_no_object_is_named(tmp_path, line):
    (tmp_path / "t.jsonl").write_text('{"a": 1}\n' + line)
    with pytest.raises(
        DataError, match="t.jsonl: line 2.*(is not JSON|use a JSON object|nested too deeply)"
    ):
        fields(tmp_path / "t.jsonl")


def test_parquet_is_read_without_the_bytes_of_pictures(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    columns = {
        "image": [{"bytes": b"x", "path": "a.png"}],
        "jpg": [b"y"],
        "text": ["t"],
        "width": [3],
    }
    parquet.write_table(pyarrow.table(columns), tmp_path / "t.parquet")
    assert fields(tmp_path / "t.parquet") == [{"image": {"path": "a.png"}, "text": "t", "width": 3}]
    (tmp_path / "t.parquet").write_bytes(b"PAR1 and then nothing")
    with pytest.raises(DataError, match="t.parquet: is not a whole Parquet file"):
        fields(tmp_path / "t.parquet")
