import pickle

from utils.data.image_storage import ByteRanges


def test_a_range_of_bytes_is_read_from_its_place(tmp_path):
    (tmp_path / "a.tar").write_bytes(b"0123456789")
    storage = pickle.loads(pickle.dumps(ByteRanges()))  # noqa: S301  as another process receives it
    assert storage.read(tmp_path / "a.tar", 3, 4) == b"3456"
