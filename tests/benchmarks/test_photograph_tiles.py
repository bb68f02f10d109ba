"""The pictures that README's example is tried on."""

import pytest
from PIL import Image

from benchmarks import photograph_tiles


def test_tiles_are_written_once_and_evenly(tmp_path, capsys):
    photograph_tiles.main(["--out", str(tmp_path / "photos"), "--count", "12", "--side", "96"])
    files = sorted((tmp_path / "photos").iterdir())
    assert len(files) == 12
    assert "12 pictures in" in capsys.readouterr().out
    assert {Image.open(file).size for file in files} == {(96, 96)}
    assert len({file.name.split("-")[0] for file in files}) >= 8  # of many photographs
    with pytest.raises(SystemExit) as stopped:
        photograph_tiles.main(["--out", str(tmp_path / "photos")])
    assert stopped.value.code == 2
    assert "is not empty" in capsys.readouterr().err


def test_more_tiles_than_there_are_is_a_line(tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        photograph_tiles.main(["--out", str(tmp_path / "photos"), "--count", "100000"])
    assert stopped.value.code == 2
    assert "--count=100000" in capsys.readouterr().err
    assert not (tmp_path / "photos").exists()
