import numpy as np
import pytest
from PIL import Image

from utils import manifest
from utils.data import image_sets
from utils.records import Query
from utils.stages import retrieval_sets as retrieval


@pytest.fixture
def folder(tmp_path):
    for i in range(12):
        (tmp_path / "g" / "generations").mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4), (i * 20, 0, 0)).save(tmp_path / "g" / "generations" / f"{i}.png")
    return tmp_path / "g"


def test_prompts_are_joined_by_file_not_by_order(folder):
    rows = [
        {"file": f"generations/{i}.png", "index": i, "seed": i, "prompt": f"p{i}", "source_prompt": f"s{i}",
         "source_image": None} for i in reversed(range(12))
    ]  # fmt: skip
    manifest.write_manifest(folder / "manifest.json", "generation", images=rows)
    images, queries, _ = retrieval.read_queries(folder, say=print)
    assert images.keys == tuple(f"generations/{i}.png" for i in range(12))
    assert [(q.key, q.source_prompt, q.prompt, q.seed) for q in queries] == [
        (f"generations/{i}.png", f"s{i}", f"p{i}", i) for i in range(12)
    ]


def test_a_published_folder_pairs_k_images_with_a_line(folder, capsys):
    (folder / "prompts.txt").write_text("a\nb\nc\n")
    _, queries, _ = retrieval.read_queries(folder, say=print)
    assert [q.source_prompt for q in queries] == ["a"] * 4 + ["b"] * 4 + ["c"] * 4
    (folder / "prompts.txt").write_text("a\nb\nc\nd\ne\n")
    _, queries, _ = retrieval.read_queries(folder, say=print)
    assert {q.source_prompt for q in queries} == {None}
    assert "5 lines for 12 images; prompt metrics are left out" in capsys.readouterr().out


def test_sources_are_found_by_key_wherever_the_folder_lies(tmp_path):
    train = tmp_path / "data" / "train"
    for key in ("cat/1.png", "cat/2.png"):
        (train / key).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(train / key)
    training = image_sets.list_images("--val_dir", train)
    queries = [Query("a", source_image=k) for k in ("train/cat/2.png", "cat/1.png", "elsewhere/cat/1.png", None)]
    sources = retrieval.source_keys(tmp_path, queries, training)
    sets = retrieval.Sets(None, queries, training, None, None, sources)
    assert np.array_equal(retrieval.source_indices(sets), [1, 0, -1, -1])
