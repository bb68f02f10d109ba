import pytest

from utils.data import field_names
from utils.data.field_names import Columns
from utils.runtime.errors import DataError


def test_of_several_usual_names_the_first_of_the_table_is_read():
    assert Columns().caption_of(["prompt", "caption", "text"], "f") == "text"
    assert Columns().caption_of(["prompt", "caption", "text"], "f", first="prompt") == "prompt"
    assert Columns().image_of(["key", "image", "url"], "f") == "image"


def test_case_blanks_and_hyphens_do_not_matter():
    assert Columns().caption_of(["URL", "TEXT"], "f") == "TEXT"
    assert Columns().image_of(["File Name"], "f") == "File Name"
    assert Columns().image_of(["file-name"], "f") == "file-name"


def test_an_error_lists_the_columns_that_there_are():
    with pytest.raises(DataError, match="f has the columns 'a', 'b'; .* by --caption_column"):
        Columns().caption_of(["a", "b"], "f")
    with pytest.raises(DataError, match="--image_column='c': f has the columns 'a', 'b'; use one"):
        Columns(image="c").image_of(["a", "b"], "f")
    many = field_names.listed(str(i) for i in range(20))
    assert many.endswith("'11' and 8 more")
