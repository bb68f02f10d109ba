import json

import pytest

from utils.data.field_names import Columns
from utils.generation.prompt_files import read_prompts
from utils.runtime.errors import DataError, UsageError


def texts(path, columns=None):
    read = read_prompts(path) if columns is None else read_prompts(path, columns)
    return [(prompt.text, prompt.source_image) for prompt in read]


def test_the_list_of_memorised_prompts_is_read(tmp_path):
    """As the field publishes it: a line for each, with the caption, its index and its address."""
    path = tmp_path / "memorized.jsonl"
    rows = [
        {"caption": f"caption {i}", "index": 900 + i, "url": f"https://e.org/{i}.jpg"}
        for i in range(3)
    ]
    path.write_text("\n".join(json.dumps(row) for row in rows) + "\n")
    assert texts(path) == [(f"caption {i}", None) for i in range(3)]


@pytest.mark.parametrize("column", ["prompt", "Prompt", "caption", "TEXT"])
@pytest.mark.parametrize("suffix", ["csv", "tsv", "parquet", "jsonl", "json"])
def test_tables_with_a_usual_column_are_lists_of_prompts(tmp_path, column, suffix):
    path = tmp_path / f"p.{suffix}"
    rows = [{"n": str(i), column: f"a cat, {i}"} for i in range(2)]
    if suffix == "parquet":
        pyarrow = pytest.importorskip("pyarrow")
        from pyarrow import parquet

        parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    elif suffix == "json":
        path.write_text(json.dumps(rows))
    elif suffix == "jsonl":
        path.write_text("\n".join(map(json.dumps, rows)))
    else:
        comma = "," if suffix == "csv" else "\t"
        path.write_text(
            f"n{comma}{column}\n" + "".join(f'{r["n"]}{comma}"{r[column]}"\n' for r in rows)
        )
    assert texts(path) == [("a cat, 0", None), ("a cat, 1", None)]


def test_rows_with_images_are_a_captions_file_and_rows_with_prompts_are_not(tmp_path):
    path = tmp_path / "metadata.csv"
    path.write_text("file_name,text\na.png,one\na.png,two\nb.png,three\n")
    assert texts(path) == [("one", "a.png"), ("three", "b.png")]
    path.write_text("file_name,prompt\na.png,one\na.png,two\n")
    assert texts(path) == [("one", None), ("two", None)]


def test_a_column_is_named_and_a_wrong_one_lists_those_that_there_are(tmp_path):
    path = tmp_path / "p.csv"
    path.write_text("text,long\na,b\n")
    assert texts(path, Columns("long")) == [("b", None)]
    with pytest.raises(DataError, match="--caption_column='x': .* has the columns 'text', 'long'"):
        texts(path, Columns("x"))
    path.write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match="has the columns 'a', 'b'; name the one with captions"):
        texts(path)
    (tmp_path / "p.txt").write_text("a\n")
    with pytest.raises(UsageError, match="--caption_column='x' names a column, and --prompts"):
        texts(tmp_path / "p.txt", Columns("x"))


def test_a_row_without_a_prompt_is_named(tmp_path):
    path = tmp_path / "p.csv"
    path.write_text("prompt,n\na,1\n,2\n")
    with pytest.raises(DataError, match="line 3: 'prompt' is ''; use a text"):
        texts(path)


def test_an_unknown_suffix_is_refused(tmp_path):
    (tmp_path / "p.xlsx").write_text("x")
    with pytest.raises(UsageError, match="unknown suffix; use .txt, .json, .jsonl"):
        texts(tmp_path / "p.xlsx")
