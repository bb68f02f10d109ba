"""ICC profiles written by hand (version 2), for tests of what reads them: of three primaries and a
curve, and of greys."""

import itertools
import struct

import numpy as np

D65, D50 = np.array([0.3127, 0.3290]), np.array([0.9642, 1.0, 0.8249])
# x, y of red, green and blue
SRGB = ((0.64, 0.33), (0.30, 0.60), (0.15, 0.06))
DISPLAY_P3 = ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060))
ADOBE_RGB = ((0.64, 0.33), (0.21, 0.71), (0.15, 0.06))
BRADFORD = np.array(
    [[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]]
)


def srgb_to_linear(values):
    """sRGB's curve, [0, 1] to [0, 1]."""
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def linear_to_srgb(values):
    """The inverse of sRGB's curve, [0, 1] to [0, 1]."""
    return np.where(values <= 0.0031308, values * 12.92, 1.055 * values ** (1 / 2.4) - 0.055)


def to_xyz(primaries):
    """The matrix from linear RGB with white D65 to XYZ."""
    columns = np.array([(x / y, 1, (1 - x - y) / y) for x, y in (*primaries, D65)]).T
    return columns[:, :3] * np.linalg.solve(columns[:, :3], columns[:, 3])


def shown(pixels, primaries, curve):
    """Pixels of a space with white D65 in sRGB, by the formulas alone. pixels: [..., 3], 0-255;
    curve: [0, 1] to linear [0, 1]."""
    linear = curve(np.asarray(pixels) / 255) @ (np.linalg.inv(to_xyz(SRGB)) @ to_xyz(primaries)).T
    return 255 * linear_to_srgb(linear.clip(0, 1))


def profile(primaries, curve, description="made by hand"):
    """The profile of an RGB space with white D65. curve: as in `shown`."""
    adapted = _adapted(primaries)
    tags = {b"desc": _text(description), b"wtpt": _xyz(D50), b"cprt": b"text\0\0\0\0none\0"}
    for n, name in enumerate((b"r", b"g", b"b")):
        tags |= {name + b"XYZ": _xyz(adapted[:, n]), name + b"TRC": _curve(curve)}
    return _file(b"RGB ", tags)


def grey_profile(curve):
    """The profile of greys. curve: as in `shown`."""
    return _file(
        b"GRAY",
        {
            b"desc": _text("grey"),
            b"wtpt": _xyz(D50),
            b"cprt": b"text\0\0\0\0none\0",
            b"kTRC": _curve(curve),
        },
    )


def lab_to_srgb(lab):
    """A colour of CIE Lab (white D50) in sRGB, 0-255, by the formulas alone."""
    light, a, b = lab
    f = np.array([(light + 16) / 116 + a / 500, (light + 16) / 116, (light + 16) / 116 - b / 200])
    xyz = D50 * np.where(f > 6 / 29, f**3, 3 * (6 / 29) ** 2 * (f - 4 / 29))
    linear = np.linalg.solve(_adapted(SRGB), xyz)
    return 255 * linear_to_srgb(linear.clip(0, 1))


def ink_profile(corners):
    """The profile of a press. corners: {(cyan, magenta, yellow, black), each 0 or 255: its Lab};
    the others are black."""
    table = bytearray()
    for corner in itertools.product((0, 255), repeat=4):
        light, a, b = corners.get(corner, (0, 0, 0))
        table += bytes([round(light * 2.55), a + 128, b + 128])
    identity = struct.pack(">9i", *(65536 * v for v in (1, 0, 0, 0, 1, 0, 0, 0, 1)))
    ramp = bytes(range(256))
    lut = b"mft1\0\0\0\0" + bytes([4, 3, 2, 0]) + identity + 4 * ramp + bytes(table) + 3 * ramp
    tags = {b"desc": _text("inks"), b"wtpt": _xyz(D50), b"cprt": b"text\0\0\0\0none\0"}
    return _file(b"CMYK", tags | {b"A2B0": lut}, kind=b"prtr", through=b"Lab ")


def _adapted(primaries):
    """The matrix from linear RGB to XYZ, with white D65 moved to D50."""
    x, y = D65
    white = np.array([x / y, 1, (1 - x - y) / y])
    scale = (BRADFORD @ D50) / (BRADFORD @ white)
    return np.linalg.inv(BRADFORD) @ np.diag(scale) @ BRADFORD @ to_xyz(primaries)


def _xyz(values):
    return b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(v * 65536) for v in values))


def _curve(curve):
    values = np.round(65535 * curve(np.linspace(0, 1, 4096))).astype(">u2")
    return b"curv\0\0\0\0" + struct.pack(">I", len(values)) + values.tobytes()


def _text(text):
    line = text.encode() + b"\0"
    return b"desc\0\0\0\0" + struct.pack(">I", len(line)) + line + bytes(4 + 4 + 2 + 1 + 67)


def _file(space, tags, kind=b"mntr", through=b"XYZ "):
    table, body, at = b"", b"", 128 + 4 + 12 * len(tags)
    for name, content in tags.items():
        table += struct.pack(">4sII", name, at + len(body), len(content))
        body += content + bytes(-len(content) % 4)
    size = at + len(body)
    head = struct.pack(">I4sI4s4s4s", size, b"none", 0x02400000, kind, space, through)
    head += bytes(12) + b"acsp" + bytes(28)
    head += struct.pack(">3i", *(round(v * 65536) for v in D50))
    return head + bytes(128 - len(head)) + struct.pack(">I", len(tags)) + table + body
