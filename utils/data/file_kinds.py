"""What a file is by its first bytes, for messages about files that are not what their name says."""

from __future__ import annotations

# (first byte, the bytes there, what the file is); the first that fits
BEGINNINGS: tuple[tuple[int, bytes, str], ...] = (
    (0, b"PK\x03\x04", "a zip archive"),
    (0, b"\x1f\x8b", "a gzip archive"),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (0, b"Rar!", "a rar archive"),
    (0, b"PAR1", "a Parquet file"),
    (0, b"ARROW1", "an Arrow file"),
    (257, b"ustar", "a tar file"),
    (0, b"%PDF", "a PDF"),
    (0, b"%!PS", "PostScript"),
    (0, b"8BPS", "a Photoshop file"),
    (0, b"DDS ", "a DDS texture"),
    (0, b"\0\0\0\x0cjP  ", "JPEG 2000"),
    (0, b"\xff\x4f\xff\x51", "JPEG 2000"),
    (0, b"\xff\x0a", "JPEG XL"),
    (0, b"\0\0\0\x0cJXL ", "JPEG XL"),
    (4, b"ftypavi", "AVIF"),
    (4, b"ftyphei", "HEIC"),
    (4, b"ftyphev", "HEIC"),
    (4, b"ftypmif1", "HEIC"),
    (4, b"ftyp", "a video"),
    (0, b"\x1a\x45\xdf\xa3", "a video"),
    (0, b"\x89HDF", "an HDF5 file"),
    (0, b"\xff\xd8\xff", "JPEG"),
    (0, b"\x89PNG", "PNG"),
    (0, b"GIF8", "GIF"),
    (0, b"BM", "BMP"),
    (0, b"II*\0", "TIFF"),
    (0, b"MM\0*", "TIFF"),
    (8, b"WEBP", "WebP"),
)
WEB_PAGE = (b"<!doctype", b"<html", b"<?xml", b"<svg")
ENOUGH = 512  # bytes from the beginning of a file that `kind_of` looks at


def kind_of(content: bytes) -> str | None:
    """What a file is; None if it is unknown. content: its first ENOUGH bytes, or more."""
    if not content:
        return "empty"
    head = content[:ENOUGH].lstrip().lower()
    if head.startswith(WEB_PAGE):
        return "an SVG drawing" if b"<svg" in head else "a web page"
    return next((kind for at, mark, kind in BEGINNINGS if content[at:].startswith(mark)), None)
