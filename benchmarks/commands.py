"""Command lines of the toolkit's scripts, written as {flag: value}."""


def flag_words(flags):
    """List the words of a command line.

    flags: {"--resolution": 64, "--center_crop": True, "--compile": False}: True gives the flag
        alone, False and None leave it out, any other value follows its flag as it is.
    Returns: [flags and values], here ["--resolution", 64, "--center_crop"]."""
    words = []
    for flag, value in flags.items():
        if value is True:
            words += [flag]
        elif value is not None and value is not False:
            words += [flag, value]
    return words


def flag_strings(flags):
    """List the same words as strings, as subprocess and the scripts' main functions need them."""
    return [str(word) for word in flag_words(flags)]
