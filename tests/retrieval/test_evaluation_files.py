import dataclasses
import io

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tests.retrieval import measured_by_hand
from utils.cli.retrieval_options import RetrievalOptions
from utils.data import image_sets
from utils.retrieval import (
    compare_evaluations,
    evaluation_files,
    evaluation_pictures,
    evaluation_stage,
)
from utils.retrieval.evaluation_sets import (
    GenerationFacts,
    IndexFacts,
    Query,
    Sets,
    TrainingFacts,
)
from utils.retrieval.formulas.complexity import Complexity
from utils.runtime.errors import DataError, UsageError

COMPLEX = {"cc_ent": 0.5, "pval_ent": 0.01}


@pytest.fixture
def sets(tmp_path):
    """Three generations in a folder of their own, 40 pixels wide, and four training images; each of
    one colour."""
    for folder, keys in (
        ("g", ("sub/0.png", "sub/1.png", "sub/2.png")),
        ("x", ("a.png", "b.png", "c.png", "d.png")),
    ):
        for i, key in enumerate(keys):
            (tmp_path / folder / key).parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (40, 20), (60 * i, 30 * (folder == "x"), 0)).save(
                tmp_path / folder / key
            )
    generated, training = (image_sets.list_images("--d", tmp_path / name) for name in "gx")
    queries = [
        Query(k, f"edited {i}", f"p{i}", f"train/{i}.png", 70 + i, i)
        for i, k in enumerate(generated.keys)
    ]
    known = TrainingFacts(["b.png"], captions={"b.png": "a caption"})
    return Sets(generated, queries, training, known)


def measured(**changes):
    """Generation 1 is the most similar, then 0, then 2; the best matches are d, b and a; b alone is
    duplicated."""
    fields = {
        "scores": np.array([[0.8, 0.25], [0.97, 0.5], [0.4, 0.4]]),
        "matches": np.array([[3, 0], [1, 2], [0, 1]]),
        "find_background": lambda: np.array([0.1, 0.2, 0.3, 0.2]),
        "prompts": ["p0", "p1", "p2"],
        "sources": np.array([1, -1, 0]),
        "source_scores": np.array([0.125, np.nan, 0.4]),
        "duplicated": np.array([False, True, False, False]),
        "threshold": 0.95,
        "alignment": {"clipscore": np.array([0.3, np.nan, 0.2])},
        "find_complexity": lambda: Complexity(
            np.array([1.0, 2.0, 3.0]), np.array([4.0, 5.0, 6.0]), np.array([7.0, 8.0, 9.0])
        ),
    }
    return measured_by_hand.measured(**(fields | changes))


def rows_of(sets, row, **changes):
    return list(evaluation_files.match_rows(measured(**changes), sets, row))


# matches.csv --------------------------------------------------------------------------------------


def test_a_row_for_each_generation_and_rank(sets):
    rows = rows_of(sets, {})
    assert [(r["query"], r["rank"], r["match"], r["score"]) for r in rows] == [
        ("sub/0.png", 1, "d.png", "0.800000"),
        ("sub/0.png", 2, "a.png", "0.250000"),
        ("sub/1.png", 1, "b.png", "0.970000"),
        ("sub/1.png", 2, "c.png", "0.500000"),
        ("sub/2.png", 1, "a.png", "0.400000"),
        ("sub/2.png", 2, "b.png", "0.400000"),
    ]
    assert [(r["prompt"], r["source_image"], r["seed"]) for r in rows[::2]] == [
        (f"p{i}", f"train/{i}.png", 70 + i) for i in range(3)
    ]
    # the score with the prompt's own image is the generation's, whatever the rank; none without
    # such an image
    assert [r["source_score"] for r in rows] == ["0.125000"] * 2 + [None] * 2 + ["0.400000"] * 2
    assert set().union(*rows) <= set(evaluation_files.COLUMNS)


def test_duplicated_speaks_of_the_match(sets):
    assert [r["duplicated"] for r in rows_of(sets, {})] == [0, 0, 1, 0, 0, 1]
    assert {r["duplicated"] for r in rows_of(sets, {}, duplicated=None)} == {None}


def test_complexity_stands_beside_the_best_match_alone_and_where_it_was_measured(sets):
    found = measured()
    assert found.complexity.entropy[0] == 1  # looked at, as the metric does
    rows = list(evaluation_files.match_rows(found, sets, COMPLEX))
    assert [(r["entropy"], r["jpeg_kib"], r["total_variation"]) for r in rows[::2]] == [
        ("1.000000", "4.000000", "7.000000"),
        ("2.000000", "5.000000", "8.000000"),
        ("3.000000", "6.000000", "9.000000"),
    ]
    assert not any("entropy" in r for r in rows[1::2])
    # and is not computed for it
    assert not any("entropy" in r for r in rows_of(sets, {}, find_complexity=None))


def test_the_clip_score_is_the_generations(sets):
    rows = rows_of(sets, {"clipscore": 0.25})
    assert [r["clipscore"] for r in rows] == ["0.300000"] * 2 + [None] * 2 + ["0.200000"] * 2
    assert {r["clipscore"] for r in rows_of(sets, {})} == {None}  # --metrics without clip


def test_the_scores_of_detectors_are_columns_where_there_are_any(sets, tmp_path, monkeypatch):
    evaluation_files.write_matches(tmp_path, measured(), sets, {})
    plain = (tmp_path / "matches.csv").read_text().splitlines()
    assert plain[0] == ",".join(evaluation_files.COLUMNS)
    scores = ({"magnitude": 1.25}, {"magnitude": 0.5, "power": 3.0}, {})
    scored = dataclasses.replace(
        sets,
        queries=[
            dataclasses.replace(query, detections=detections)
            for query, detections in zip(sets.queries, scores, strict=True)
        ],
    )
    evaluation_files.write_matches(tmp_path, measured(), scored, {})
    lines = (tmp_path / "matches.csv").read_text().splitlines()
    more = ["detect_magnitude,detect_power", *["1.25,"] * 2, *["0.5,3.0"] * 2, *[","] * 2]
    assert lines == [f"{line},{cells}" for line, cells in zip(plain, more, strict=True)]
    monkeypatch.setattr(evaluation_files, "LONG_TABLE", 5)
    evaluation_files.write_matches(tmp_path, measured(), scored, {})
    table = pq.read_table(tmp_path / "matches.parquet")
    assert table["detect_magnitude"].to_pylist() == [1.25, 1.25, 0.5, 0.5, None, None]
    assert table["detect_power"].to_pylist() == [None, None, 3.0, 3.0, None, None]


def test_a_long_table_is_parquet_and_can_be_compared(sets, tmp_path, monkeypatch):
    row = {"clipscore": 0.25}
    evaluation_files.write_matches(tmp_path, measured(), sets, row)
    assert [p.name for p in tmp_path.iterdir() if p.suffix] == ["matches.csv"]
    short = compare_evaluations.best_matches(tmp_path / "matches.csv")
    (tmp_path / "matches.csv").unlink()
    monkeypatch.setattr(evaluation_files, "LONG_TABLE", 5)
    evaluation_files.write_matches(tmp_path, measured(), sets, row)
    assert [p.name for p in tmp_path.iterdir() if p.suffix] == ["matches.parquet"]
    long = compare_evaluations.best_matches(tmp_path / "matches.csv")
    assert [(r["query"], r["score"], r["clipscore"]) for r in long] == [
        (r["query"], float(r["score"]), float(r["clipscore"]) if r["clipscore"] else None)
        for r in short
    ]
    (tmp_path / "matches.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match=r"matches.parquet: cannot be read"):
        compare_evaluations.best_matches(tmp_path / "matches.csv")


# Gallery, page, plots -----------------------------------------------------------------------------


@pytest.fixture
def shown(monkeypatch):
    """Rows of the gallery's pages as they are drawn: shown[i] = [(query label, [(score, match
    key)])]."""
    pages, real = [], evaluation_pictures.galleries.match_page

    def match_page(rows, **options):
        pages.append(
            [
                (label, [(round(float(s), 2), key) for _, s, key in found])
                for _, label, found in rows
            ]
        )
        return real(rows, **options)

    monkeypatch.setattr(evaluation_pictures.galleries, "match_page", match_page)
    return pages


def test_the_most_similar_come_first_in_the_gallery(sets, tmp_path, shown):
    evaluation_pictures.write_gallery(tmp_path / "gallery", measured(), sets, workers=1, unshown={})
    assert shown == [
        [
            ("1.png", [(0.97, "b.png"), (0.5, "c.png")]),
            ("0.png", [(0.8, "d.png"), (0.25, "a.png")]),
            ("2.png", [(0.4, "a.png"), (0.4, "b.png")]),
        ]
    ]
    drawn = np.asarray(Image.open(tmp_path / "gallery" / "page_01.png").convert("RGB")).reshape(
        -1, 3
    )
    # the first query and its matches, at their own colours
    for colour in ((60, 0, 0), (60, 30, 0), (120, 30, 0)):
        assert (drawn == colour).all(1).any()


@pytest.mark.parametrize(
    ("rows", "pages", "sizes"), [(2, 20, [2, 1]), (1, 2, [1, 1]), (10, 20, [3])]
)
def test_pages_have_so_many_rows_and_there_are_so_many_pages(
    sets, tmp_path, shown, monkeypatch, rows, pages, sizes
):
    monkeypatch.setattr(evaluation_pictures, "GALLERY_ROWS", rows)
    monkeypatch.setattr(evaluation_pictures, "GALLERY_PAGES", pages)
    evaluation_pictures.write_gallery(tmp_path / "gallery", measured(), sets, workers=1, unshown={})
    assert [len(page) for page in shown] == sizes
    assert [page[0][0] for page in shown] == ["1.png", "2.png" if rows == 2 else "0.png"][
        : len(sizes)
    ]
    names = [f"page_{i:02d}.png" for i in range(1, len(sizes) + 1)]
    assert sorted(p.name for p in (tmp_path / "gallery").iterdir()) == names


def test_the_gallery_shows_ten_matches_at_most_and_the_table_all(
    sets, tmp_path, shown, monkeypatch
):
    assert evaluation_pictures.GALLERY_COLUMNS == 10
    many = measured(
        scores=np.linspace(0.9, 0.1, 36).reshape(3, 12), matches=np.arange(36).reshape(3, 12) % 4
    )
    evaluation_pictures.write_gallery(tmp_path / "gallery", many, sets, workers=1, unshown={})
    assert [len(found) for _, found in shown[0]] == [10] * 3
    narrow = evaluation_pictures.galleries.match_page([], threshold=None, columns=10).width
    assert Image.open(tmp_path / "gallery" / "page_01.png").width == narrow
    assert sum(1 for _ in evaluation_files.match_rows(many, sets, {})) == 36


@pytest.mark.parametrize("error", [DataError("is truncated"), OSError("stale file handle")])
def test_what_can_no_longer_be_read_is_grey(sets, monkeypatch, error):
    def fail(*_, **__):
        raise error

    assert evaluation_pictures.to_look_at(sets.training, 0, 20, {}).getpixel((1, 1)) == (0, 30, 0)
    monkeypatch.setattr(image_sets.ImageSet, "open", fail)
    unshown = {}
    assert evaluation_pictures.to_look_at(sets.training, 0, 20, unshown).getcolors() == [
        (400, evaluation_pictures.GREY)
    ]
    assert list(unshown) == [sets.training.keys[0]]
    assert evaluation_pictures.unshown_in_words(unshown | {"x": "y"}).startswith(
        f"pictures that cannot be read now are grey: 2, first {sets.training.keys[0]!r} ("
    )


def test_the_first_pages_are_given_to_the_report_as_jpeg(sets, tmp_path, monkeypatch):
    monkeypatch.setattr(evaluation_pictures, "GALLERY_ROWS", 1)
    monkeypatch.setattr(evaluation_pictures, "PAGE_GALLERY", 2)
    given = evaluation_pictures.write_gallery(
        tmp_path / "gallery", measured(), sets, workers=2, unshown={}
    )
    files = sorted((tmp_path / "gallery").iterdir())
    assert (len(given), len(files)) == (2, 3)
    for data, path in zip(given, files[:2], strict=True):
        small, whole = Image.open(io.BytesIO(data)), Image.open(path)
        assert (small.format, small.size) == ("JPEG", whole.size)
        assert (
            np.abs(
                np.asarray(small.convert("RGB"), float) - np.asarray(whole.convert("RGB"), float)
            ).mean()
            < 3
        )


def test_the_published_layout_is_ten_a_page_and_twenty_pages():
    assert (evaluation_pictures.GALLERY_ROWS, evaluation_pictures.GALLERY_PAGES) == (10, 20)


@pytest.mark.parametrize("side", [192, 8])
def test_every_picture_that_the_page_names_is_there_small(sets, monkeypatch, side):
    monkeypatch.setattr(evaluation_pictures, "PICTURE_SIDE", side)
    rows, pictures = evaluation_pictures.page_rows(measured(), sets, workers=2, unshown={})
    assert [r["query"] for r in rows] == ["sub/1.png", "sub/0.png", "sub/2.png"]
    assert set(pictures) == {r[k] for r in rows for k in ("query_picture", "match_picture")}
    colours = {"query_picture": [60, 0, 120], "match_picture": [60, 180, 0]}
    for i, row in enumerate(rows):
        for name, reds in colours.items():
            image = Image.open(io.BytesIO(pictures[row[name]]))
            image.load()
            assert (image.format, image.size) == ("JPEG", (40, 20) if side == 192 else (8, 4))
            assert image.getpixel((2, 2))[0] == pytest.approx(reds[i], abs=6)


def test_rows_of_the_page_say_what_is_known(sets):
    rows, _ = evaluation_pictures.page_rows(measured(), sets, workers=1, unshown={})
    assert rows[0] == {
        "query": "sub/1.png",
        "match": "b.png",
        "score": 0.97,
        "prompt": "p1",
        "caption": "a caption",
        "source_image": "train/1.png",
        "seed": 71,
        "source_score": None,
        "duplicated": True,
        "clipscore": None,
        "query_picture": "generated/sub/1.png",
        "match_picture": "training/b.png",
    }
    assert (
        rows[1]["caption"],
        rows[1]["source_score"],
        rows[1]["duplicated"],
        rows[1]["clipscore"],
    ) == (None, 0.125, False, 0.3)
    rows, _ = evaluation_pictures.page_rows(
        measured(duplicated=None, alignment={}), sets, workers=1, unshown={}
    )
    assert {(r["duplicated"], r["clipscore"]) for r in rows} == {(None, None)}


def test_the_page_shows_the_beginning_of_what_is_long(sets):
    long = "<a>é " * 200_000
    queries = [dataclasses.replace(q, source_prompt=long[: 500 + q.index]) for q in sets.queries]
    rows, _ = evaluation_pictures.page_rows(
        measured(),
        dataclasses.replace(sets, queries=queries, known=TrainingFacts(captions={"b.png": long})),
        workers=1,
        unshown={},
    )
    assert [len(row["prompt"]) for row in rows] == [500] * 3
    assert rows[1]["prompt"] == long[:500]  # of the first generation, whole
    assert rows[0]["prompt"] == rows[0]["caption"] == long[:499] + "…"
    assert (
        next(
            evaluation_files.match_rows(
                measured(), dataclasses.replace(sets, queries=queries[2:] * 3), {}
            )
        )["prompt"]
        == (long[:502])
    )


def test_the_page_shows_so_many_of_the_most_similar(sets, monkeypatch):
    assert evaluation_pictures.PAGE_ROWS == 500
    monkeypatch.setattr(evaluation_pictures, "PAGE_ROWS", 2)
    rows, pictures = evaluation_pictures.page_rows(measured(), sets, workers=1, unshown={})
    assert [r["query"] for r in rows] == ["sub/1.png", "sub/0.png"]
    assert len(pictures) == 4


def test_a_training_image_that_several_match_is_embedded_once(sets):
    rows, pictures = evaluation_pictures.page_rows(
        measured(matches=np.zeros((3, 2), int)), sets, workers=1, unshown={}
    )
    assert {r["match_picture"] for r in rows} == {"training/a.png"}
    assert len(pictures) == 4


SHARE = {"copy_share": 0.3, "copy_share_lo": 0.1, "copy_share_hi": 0.5}
BY_SOURCE = {f"copy_share{k}{end}": 0.2 for k in ("_dup", "_nodup") for end in ("", "_lo", "_hi")}


@pytest.mark.parametrize(
    ("row", "files"),
    [
        ({}, []),
        (SHARE, ["copy_share.png"]),
        (BY_SOURCE | {"bg_mean": 0.2}, ["copy_share.png"]),
        (SHARE | COMPLEX, ["copy_share.png", "complexity_ent.png"]),
        (
            {f"{a}_{b}": 0.1 for a in ("cc", "pval") for b in ("ent", "comp", "tvl", "mixed")},
            [f"complexity_{b}.png" for b in ("ent", "comp", "tvl", "mixed")],
        ),
    ],
)
def test_a_plot_for_every_number_there_is(sets, tmp_path, row, files):
    made = evaluation_pictures.write_plots(
        tmp_path / "p", measured=measured(), row=row, settings={"pt_style": "pixel"}
    )
    assert [path.name for path, _ in made] == ["similarity.png", *files]
    assert sorted(p.name for p in (tmp_path / "p").iterdir()) == sorted(["similarity.png", *files])
    assert all(words for _, words in made)


def test_what_is_drawn_is_what_was_measured(sets, tmp_path, monkeypatch):
    drawn = {}
    for name in ("similarity_histogram", "bars", "scatter"):
        monkeypatch.setattr(
            evaluation_pictures.plots,
            name,
            lambda path, *given, **named: drawn.update({path.stem: (given, named)}),
        )
    found = measured()

    def draw(row):
        drawn.clear()
        evaluation_pictures.write_plots(
            tmp_path, measured=found, row=row, settings={"pt_style": "pixel"}
        )
        return drawn

    (scores, background), named = draw(SHARE | BY_SOURCE | {"copy_share_dup": 0.9} | COMPLEX)[
        "similarity"
    ]
    # the background was not asked for: not computed
    assert (list(scores), background) == ([0.8, 0.97, 0.4], None)
    assert named == {"threshold": 0.95, "descriptor": "pixel"}
    (bars,), _ = drawn["copy_share"]
    assert [(words.partition("\n")[0], *map(round, numbers)) for words, *numbers in bars] == [
        ("all", 30, 10, 50),
        ("prompts of", 90, 20, 20),
        ("other prompts", 20, 20, 20),
    ]
    (complexities, scores), named = drawn["complexity_ent"]
    assert (list(complexities), list(scores)) == ([1, 2, 3], [0.8, 0.97, 0.4])
    assert (named["r"], named["p"]) == (0.5, 0.01)
    (_, background), _ = draw({"bg_mean": 0.2})["similarity"]
    assert list(background) == [0.1, 0.2, 0.3, 0.2]


# Counts and place ---------------------------------------------------------------------------------


def folder_for(opts, sets):
    return evaluation_files.folder_for(
        evaluation_stage.request_of(opts), evaluation_stage.output_of(opts), sets
    )


def test_counts_of_images_of_each_kind(sets):
    unread = dataclasses.replace(
        sets,
        training=dataclasses.replace(sets.training, bad=(("e.png", "is no image"),)),
        generation=GenerationFacts(images_per_prompt=3),
    )
    assert evaluation_files.counts_of(measured(), unread) == {
        "generated": 3,
        "generated_unreadable": 0,
        "generated_that_show_nothing": 0,
        "training": 4,
        "training_unreadable": 1,
        "duplicated": 1,
        "with_source_image": 2,
        "images_per_prompt": 3,
        "prompts": 3,
        "with_equal_best_matches": 1,
        "with_only_flat_overlap": 0,
    }
    alone = measured(scores=np.ones((3, 1)), matches=np.zeros((3, 1), int), duplicated=None)
    counts = evaluation_files.counts_of(alone, sets)
    assert (counts["duplicated"], counts["with_equal_best_matches"]) == (None, None)


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ({"pt_style": "pixel"}, "pixel-dotproduct-"),
        ({"pt_style": "pixel", "similarity_metric": "splitloss"}, "pixel-splitloss-"),
        (
            {"pt_style": "pixel", "similarity_metric": "splitloss", "stype": "cross"},
            "pixel-splitlosscross-",
        ),
        ({"pt_style": "pixel", "similarity_metric": "splitlosscross"}, "pixel-splitlosscross-"),
        (
            {"arch": "resnet50_im", "preset": "dcr-search"},
            "sscd-resnet50_im-dcr-search-dotproduct-",
        ),
        ({"pt_style": "dino", "arch": "vit_base"}, "dino-vit_base-dotproduct-"),
        (
            {"pt_style": "timm", "arch": "hub/model", "similarity_metric": "splitlosscross"},
            "timm-hub_model-splitlosscross-",
        ),
    ],
)
def test_the_folders_name_says_what_was_measured(sets, given, name):
    opts = RetrievalOptions(
        query_dir=str(sets.generated.root), val_dir=str(sets.training.root), **given
    )
    folder = folder_for(opts, sets).path
    assert folder == sets.generated.root / "evaluations" / f"{name}{sets.training.fingerprint[:8]}"
    assert not folder.exists()


def test_an_approximate_search_does_not_replace_an_exact_one(sets):
    def name(**given):
        opts = RetrievalOptions(
            query_dir=str(sets.generated.root), val_dir="index", pt_style="pixel", **given
        )
        return folder_for(opts, sets).path.name

    assert name(ann=True) == f"pixel-dotproduct-ann-{sets.training.fingerprint[:8]}"
    assert name() == f"pixel-dotproduct-{sets.training.fingerprint[:8]}"


@pytest.mark.parametrize("given", [{}, {"output_dir": "mine"}])
def test_a_dry_run_lists_what_is_written(sets, given, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def names(sets=sets, **more):
        opts = RetrievalOptions(query_dir="g", val_dir="x", pt_style="pixel", **given, **more)
        folder = folder_for(opts, sets)
        return [path.removeprefix(f"{folder.path}/") for path in folder.planned()]

    assert names() == [
        "metrics.json",
        "matches.csv",
        "similarity.npy",
        "plots",
        "gallery",
        "report.html",
    ]
    assert names(dontsave=True) == [
        "metrics.json",
        "matches.csv",
        "plots",
        "gallery",
        "report.html",
    ]
    of_index = dataclasses.replace(sets, indexed=IndexFacts(index=None))
    assert names(of_index)[1:3] == ["matches.csv", "matches.parquet"]
    monkeypatch.setattr(evaluation_files, "LONG_TABLE", 11)
    assert names(num_matches=3)[1] == "matches.csv"
    for many in (4, 1000):  # of the four training images there are, for three generations
        assert (
            names(num_matches=many)[1] == names(of_index, num_matches=many)[1] == "matches.parquet"
        )


def test_another_place_is_taken_when_it_holds_nothing_else(sets, tmp_path):
    opts = RetrievalOptions(query_dir="g", val_dir="x", output_dir=str(tmp_path / "mine"))
    assert folder_for(opts, sets).path == tmp_path / "mine"
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("")
    with pytest.raises(UsageError, match="holds 'notes.txt', which no evaluation wrote"):
        folder_for(opts, sets)
