"""Sources of indices, and the build of one, as fixtures."""

import pytest

from tests import tars
from tests.indices import printing_to
from utils.cli import flags
from utils.cli.retrieval_options import RetrievalOptions
from utils.index import index_build, index_sources
from utils.runtime import launching


@pytest.fixture
def shards(tmp_path):
    """Four tar files of 3, 4, 2 and 5 images of several sizes, with captions and addresses of
    most."""
    (tmp_path / "shards").mkdir()
    for s, count in enumerate((3, 4, 2, 5)):
        members = {}
        for i in range(count):
            picture = tars.noise(10 * s + i, (24 + i, 18 + 3 * s), "JPEG", quality=60)
            fields = {"caption": f"thing {s} {i}", "url": f"https://e.org/{s}/{i}"} if i else {}
            members |= {
                k.replace(".png", ".jpg"): v
                for k, v in tars.sample(f"{i:03d}", picture, **fields).items()
            }
        tars.write(tmp_path / "shards" / f"0000{s}.tar", members)
    return tmp_path / "shards"


@pytest.fixture
def build(tmp_path):
    """build(--val_dir, ...) -> the printed lines of a build of tmp_path / "index"."""

    def build(val_dir, *more, root=tmp_path / "index"):
        lines = []
        opts = flags.parse(
            RetrievalOptions,
            [
                "--build_index",
                str(root),
                "--val_dir",
                str(val_dir),
                "--num_workers",
                "0",
                "--batch_size",
                "2",
                *(more if "--pt_style" in more else ("--pt_style", "pixel", *more)),
            ],
            description="",
        )
        with launching.measuring(
            world_size=-1, rank=-1, dist_url=None, backend=None, gpu=None
        ) as processes:
            index_build.build(opts, printing_to(processes, lines.append))
        return lines

    return build


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Eight images, one of which is broken, in shards of three."""
    monkeypatch.setattr(index_sources, "FOLDER_SHARD", 3)
    (tmp_path / "f" / "deep").mkdir(parents=True)
    for i in range(8):
        (tmp_path / "f" / ("deep" if i > 5 else "") / f"{i + 5}.png").write_bytes(tars.noise(i))
    (tmp_path / "f" / "9.png").write_text("broken")
    return tmp_path / "f"
