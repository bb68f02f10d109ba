"""Write pictures to try the toolkit on: tiles of the photographs that scikit-image carries, which
share no pixel. A file is named after its photograph, row and column."""

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.copying.picture_sets import photographs  # noqa: E402
from utils.runtime.errors import UsageError  # noqa: E402


def chosen(pictures, count):
    """`count` of the pictures, evenly over all photographs."""
    if count > len(pictures):
        raise UsageError(f"--count={count}: there are {len(pictures)} tiles; give a smaller --side")
    return [pictures[i * len(pictures) // count] for i in range(count)]


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder to write, new or empty")
    parser.add_argument("--count", type=int, default=60, help="number of tiles (default: 60)")
    parser.add_argument("--side", type=int, default=96, help="of a tile in pixels (default: 96)")
    args = parser.parse_args(argv)
    try:
        tiles = chosen(photographs(args.side), args.count)
        if args.out.exists() and any(args.out.iterdir()):
            raise UsageError(f"--out={str(args.out)!r} is not empty; give another folder")
    except UsageError as error:
        parser.exit(2, f"photograph_tiles.py: error: {error}\n")
    args.out.mkdir(parents=True, exist_ok=True)
    for tile in tiles:
        tile.image.save(args.out / f"{tile.name}.png")
    print(f"{len(tiles)} pictures in {args.out}")


if __name__ == "__main__":
    main()
