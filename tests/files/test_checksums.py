from utils.files import checksums


def test_one_flipped_bit_is_found(tmp_path):
    path = tmp_path / "file.bin"
    path.write_bytes(bytes(range(256)) * 8)
    checksums.write(path)
    assert not checksums.is_damaged(path)
    content = bytearray(path.read_bytes())
    content[777] ^= 1
    path.write_bytes(content)
    assert checksums.is_damaged(path)


def test_a_file_of_an_earlier_version_has_no_checksum_and_is_read(tmp_path):
    path = tmp_path / "file.bin"
    path.write_bytes(b"old")
    assert not checksums.is_damaged(path)
