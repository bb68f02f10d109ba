from pathlib import Path

from benchmarks.commands import flag_strings, flag_words


def test_flags_become_words_in_their_order():
    flags = {"--out": Path("o"), "--center_crop": True, "--compile": False, "--cap": None, "-j": 0}
    assert flag_words(flags) == ["--out", Path("o"), "--center_crop", "-j", 0]
    assert flag_strings(flags) == ["--out", "o", "--center_crop", "-j", "0"]
