import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image

from utils.cli.retrieval_options import RetrievalOptions
from utils.data import image_sets
from utils.retrieval import evaluation_stage, measurement, metrics
from utils.retrieval.descriptors import clip, inception, timm_models
from utils.retrieval.descriptors.network import Extractor
from utils.retrieval.descriptors.weights import WeightsMissingError
from utils.retrieval.evaluation_networks import Networks
from utils.retrieval.evaluation_sets import Query, Sets, TrainingFacts, source_indices
from utils.retrieval.feature_cache import FeatureCache
from utils.retrieval.features import ReaderSettings
from utils.retrieval.formulas import complexity, memorized
from utils.runtime import parallel
from utils.runtime.errors import UsageError

CPU = torch.device("cpu")
READING = ReaderSettings(2, 0, parallel.Processes(parallel.Alone(CPU)), FeatureCache(None, print))


def request(**given):
    """What is asked for with these flags."""
    flags = {"query_dir": "g", "val_dir": "x", "pt_style": "pixel", "num_workers": 0} | given
    return evaluation_stage.request_of(RetrievalOptions(**flags))


@pytest.fixture
def sets(tmp_path):
    """Four generations, 0.png to 3.png, and five training images; 3 is that of prompts 0 and 1, 1
    that of prompt 3."""
    rng = np.random.default_rng(0)
    for name, count in (("g", 4), ("x", 5)):
        (tmp_path / name).mkdir()
        for i in range(count):
            pixels = rng.integers(0, 2 ** (i + 4), (16, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / name / f"{i}.png")
    generated, training = (image_sets.list_images("--d", tmp_path / name) for name in ("g", "x"))
    sources = ("a.png", "a.png", None, "b.png")
    queries = [
        Query(k, f"p{i}", f"p{i}", s, seed=i)
        for i, (k, s) in enumerate(zip(generated.keys, sources, strict=True))
    ]
    known = TrainingFacts(["1.png"], {"a.png": "3.png", "b.png": "1.png"}, {"0.png": "caption"})
    return Sets(generated, queries, training, known)


# Networks -----------------------------------------------------------------------------------------


@pytest.fixture
def built(monkeypatch):
    """Names of the networks that were built; `built.absent` holds those whose weights cannot be
    had."""

    class Built(list):
        absent = ()

    made = Built()

    def builder(name, value):
        def build(*_arguments, **_options):
            made.append(name)
            if name in made.absent:
                raise WeightsMissingError(f"no weights of {name}")
            return value

        return build

    network = Extractor(None, None, {"made": "here"})
    towers = clip.Clip(None, None, None, {}, None)
    monkeypatch.setattr(inception, "build", builder("fid", (network, "module")))
    monkeypatch.setattr(inception, "published", builder("fid_dcr", network))
    monkeypatch.setattr(timm_models, "build", builder("fd", network))
    monkeypatch.setattr(clip, "load", builder("clip", towers))
    monkeypatch.setattr(clip.Clip, "images", lambda self, protocol="standard": network)
    monkeypatch.setattr(memorized, "pixels", builder("mq", network))
    for metric in ("mq", "prdc"):  # as many as `sets` has
        require(monkeypatch, metric, 4, 5)
    return made


def require(monkeypatch, name, generated, training):
    """Let a metric need so many images."""
    changed = dataclasses.replace(metrics.METRICS[name], least=(generated, training))
    monkeypatch.setitem(metrics.METRICS, name, changed)


def networks_of(asked, sets):
    return evaluation_stage.build_evaluation_networks(asked, sets, device=CPU, dtype=torch.float32)


@pytest.mark.parametrize(
    ("asked", "flags", "wanted"),
    [
        (("similarity",), {}, ["picture"]),
        (
            ("background", "duplication", "complexity"),
            {"fid_protocol": "dcr", "clip_protocol": "dcr"},
            [],
        ),
        (("fid",), {}, ["fid"]),
        (("fid",), {"fid_protocol": "dcr"}, ["fid", "fid_dcr"]),
        (("fd",), {}, ["fd"]),
        (("kid",), {}, ["fid"]),
        (("prdc", "fd"), {}, ["fid", "fd"]),
        (("clip",), {}, ["clip"]),
        (("mq",), {}, ["mq"]),
        (None, {}, ["fid", "fd", "clip", "mq", "picture"]),
    ],
)
def test_a_metric_builds_the_networks_that_it_reads_and_no_other(built, sets, asked, flags, wanted):
    networks = networks_of(request(metrics=asked, **flags), sets)
    assert built == [name for name in wanted if name != "picture"]
    assert set(networks.extractors) == {"descriptor", *wanted}
    assert networks.missing == {}
    assert ("clip" in networks.extractors) == ("clip" in wanted)
    assert networks.record("fd") == ({"made": "here"} if "fd" in wanted else None)


def test_the_published_crop_is_a_network_beside_clips_own(built, sets):
    networks = networks_of(request(metrics=("clip",), clip_protocol="dcr"), sets)
    assert set(networks.extractors) == {"descriptor", "clip", "clip_dcr"}


def test_training_images_are_cut_for_the_frechet_distance_alone(built, sets):
    networks = networks_of(request(metrics=("fd",)), sets)
    assert networks.extractors["fd"].as_generated
    assert not networks.extractors["descriptor"].as_generated


def test_weights_that_cannot_be_had_leave_a_metric_out_with_its_reason(built, sets):
    built.absent = ("fid", "clip")
    networks = networks_of(request(), sets)
    assert networks.missing == {"fid": "no weights of fid", "clip": "no weights of clip"}
    # kid and prdc then read those of fd
    assert set(networks.extractors) == {"descriptor", "fd", "mq", "picture"}


@pytest.mark.parametrize("name", ["fid", "fd", "clip"])
def test_a_metric_that_was_named_needs_its_weights(built, sets, name):
    built.absent = (name,)
    with pytest.raises(
        UsageError, match=f"^--metrics='{name}' cannot be computed: no weights of {name}$"
    ):
        networks_of(request(metrics=("similarity", name)), sets)


@pytest.mark.parametrize("name", ["kid", "prdc"])
def test_kernel_distance_and_coverage_fall_back_to_the_other_network(built, sets, name):
    built.absent = ("fid",)
    networks = networks_of(request(metrics=(name,)), sets)
    assert built == ["fid", "fd"]
    assert set(networks.extractors) == {"descriptor", "fd"}
    assert name not in networks.missing
    built.absent = ("fid", "fd")
    assert {networks_of(request(), sets).missing[n] for n in ("fd", "kid", "prdc")} == {
        "no weights of fd"
    }
    with pytest.raises(
        UsageError, match=f"^--metrics='{name}' cannot be computed: no weights of fd$"
    ):
        networks_of(request(metrics=(name,)), sets)


def test_clip_takes_a_prompt_or_a_caption_somewhere(built, sets):
    silent = dataclasses.replace(sets, queries=[Query(q.key) for q in sets.queries])
    assert "clip" in networks_of(request(), silent).extractors  # training images have captions
    built.clear()
    silent = dataclasses.replace(silent, known=TrainingFacts())
    assert networks_of(request(), silent).missing == {"clip": metrics.NO_PROMPTS}
    assert "clip" not in built
    with pytest.raises(
        UsageError, match="^--metrics='clip' cannot be computed: no image has a prompt"
    ):
        networks_of(request(metrics=("clip",)), silent)


def test_many_pairs_are_compared_pixel_by_pixel_only_when_asked(built, sets, monkeypatch):
    def limited(most):
        limit = metrics.PairLimit(most, lambda q, m: q * m)
        changed = dataclasses.replace(metrics.METRICS["mq"], limit=limit)
        monkeypatch.setitem(metrics.METRICS, "mq", changed)

    limited(20)
    assert "mq" in networks_of(request(), sets).extractors  # 4 x 5
    limited(19)
    left = networks_of(request(), sets)
    assert "mq" not in left.extractors
    assert (
        left.missing["mq"]
        == "20 pairs of images take long to compare; request it with --metrics mq"
    )
    assert "mq" in networks_of(request(metrics=("mq",)), sets).extractors


def test_a_metric_of_too_few_images_is_left_out_before_its_network_is_built(
    built, sets, monkeypatch
):
    require(monkeypatch, "mq", 1, 6)
    words = "needs 1 generated and 6 training images; there are 4 and 5"
    assert networks_of(request(), sets).missing["mq"] == words
    assert "mq" not in built
    with pytest.raises(UsageError, match=f"^--metrics='mq' cannot be computed: {words}$"):
        networks_of(request(metrics=("mq",)), sets)


# Features -----------------------------------------------------------------------------------------


def picture(width, height):
    """A picture that is not of one colour."""
    return Image.linear_gradient("L").resize((width, height)).convert("RGB")


def size_of(image):
    return torch.tensor([image.width, image.height], dtype=torch.float32)


def sizes(*, as_generated=False):
    """Networks whose one descriptor is the size of what they are shown."""
    return Networks({"descriptor": Extractor(size_of, lambda x: x, as_generated=as_generated)})


def read_features(sets, networks, reading=READING, *, max_bad=0.01):
    return measurement.read_features(sets, networks, reading, max_bad=max_bad)


def test_training_images_are_cut_to_the_side_of_the_first_readable_generation(sets):
    sets.generated.path(0).write_bytes(b"")
    picture(9, 6).save(sets.generated.path(1))
    Image.new("RGB", (20, 12)).save(sets.training.path(2))
    found, read = read_features(sets, sizes(as_generated=True))
    generated, training = found["descriptor"]
    assert generated.tolist() == [[9, 6], [16, 16], [16, 16]]
    assert training.tolist() == [[6, 6]] * 5
    assert [q.key for q in read.queries] == list(read.generated.keys) == ["1.png", "2.png", "3.png"]
    assert read.generated.bad[0][0] == "0.png"
    assert (read.training.bad, len(read.training)) == ((), 5)
    _, training = read_features(sets, sizes())[0]["descriptor"]
    # others see them as they are
    assert training.tolist() == [[16, 16], [16, 16], [20, 12], [16, 16], [16, 16]]


def test_what_was_kept_for_generations_of_another_side_is_not_taken(sets, tmp_path):
    keeping = dataclasses.replace(READING, cache=FeatureCache(tmp_path / "kept", print))
    for side in (16, 12):
        for i in range(4):
            picture(side, side).save(sets.generated.path(i))
        generated = image_sets.list_images("--d", sets.generated.root)
        found, _ = read_features(
            dataclasses.replace(sets, generated=generated), sizes(as_generated=True), keeping
        )
        assert found["descriptor"][1].tolist() == [[side, side]] * 5


def test_prompts_and_sources_stay_with_their_images_when_some_cannot_be_read(sets):
    sets.generated.path(2).write_bytes(b"")
    sets.training.path(1).write_bytes(b"")
    _, read = read_features(sets, sizes())
    assert [(q.key, q.seed, q.source_image) for q in read.queries] == [
        ("0.png", 0, "a.png"),
        ("1.png", 1, "a.png"),
        ("3.png", 3, "b.png"),
    ]
    assert read.training.keys == ("0.png", "2.png", "3.png", "4.png")
    # the source of 3.png could not be read
    assert source_indices(read).tolist() == [2, 2, -1]


@pytest.mark.parametrize(
    ("flag", "side"), [("--query_dir", "generated"), ("--val_dir", "training")]
)
def test_too_many_images_that_cannot_be_read_are_an_error(sets, flag, side):
    images = getattr(sets, side)
    for i in (0, 2):
        images.path(i).write_bytes(b"")
    with pytest.raises(
        UsageError,
        match=f"^{flag}=.* has 2 of {len(images)} images that cannot be read, first '0.png'",
    ):
        read_features(sets, sizes())
    _, read = read_features(sets, sizes(), max_bad=0.5)
    assert len(getattr(read, side).bad) == 2


# What was measured --------------------------------------------------------------------------------


def random_features(sets, dim=12, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return tuple(
        torch.randn(len(s), dim, generator=generator) for s in (sets.generated, sets.training)
    )


def measured_of(sets, features, *, networks=None, **flags):
    networks = networks or sizes()
    found = features if isinstance(features, dict) else {"descriptor": features}
    return measurement.of_features(request(**flags), sets, networks, found, device=CPU, workers=0)


def unit_rows(features):
    rows = features.double().numpy()
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.mark.parametrize(
    ("flags", "chunks"),
    [
        ({}, 1),
        ({"similarity_metric": "splitloss", "num_loss_chunks": 3}, 3),
        ({"similarity_metric": "splitloss", "num_loss_chunks": 4, "stype": "cross"}, 4),
    ],
)
def test_scores_of_matches_sources_and_background_agree_with_the_whole_matrix(sets, flags, chunks):
    generated, training = random_features(sets)
    g, x = (unit_rows(f).reshape(len(f), chunks, -1) for f in (generated, training))

    def product(a, b):
        every = np.einsum("qcd,ted->qtce", a, b)
        return every.max((2, 3)) if "stype" in flags else np.einsum("qtcc->qtc", every).max(2)

    matrix, among = product(g, x), product(x, x)
    found = measured_of(sets, (generated, training), num_matches=2, einsum_chunks=2, **flags)
    order = np.argsort(-matrix, axis=1)[:, :2]
    assert np.array_equal(found.matches.indices, order)
    np.testing.assert_allclose(
        found.matches.scores, np.take_along_axis(matrix, order, 1), atol=1e-6
    )
    assert found.origins.sources.tolist() == [3, 3, -1, 1]
    np.testing.assert_allclose(
        found.origins.source_scores, [matrix[0, 3], matrix[1, 3], np.nan, matrix[3, 1]], atol=1e-6
    )
    np.fill_diagonal(among, -np.inf)
    np.testing.assert_allclose(found.background, among.max(1), atol=1e-6)
    assert found.origins.duplicated.tolist() == [False, True, False, False, False]


def test_a_descriptor_of_parts_is_compared_part_by_part_unless_told_how(sets):
    networks = sizes()
    networks.extractors["descriptor"] = dataclasses.replace(
        networks.extractors["descriptor"], chunks=3
    )
    features = random_features(sets)
    split = measured_of(sets, features, networks=networks, similarity_metric="splitloss")
    three = measured_of(sets, features, similarity_metric="splitloss", num_loss_chunks=3)
    one = measured_of(sets, features, similarity_metric="splitloss")
    assert np.array_equal(split.matches.scores, three.matches.scores)
    assert (split.matches.best < one.matches.best).all()


def test_one_training_image_has_no_background(sets):
    alone = dataclasses.replace(sets, training=sets.training.take([0]), known=TrainingFacts())
    found = measured_of(alone, random_features(alone))
    row, left_out = measurement.compute(metrics.asked(("background",)), found, alone, named=False)
    assert (row, left_out) == (
        {},
        {"background": "needs 1 generated and 2 training images; there are 4 and 1"},
    )
    assert found.origins.duplicated is None


def test_a_threshold_that_is_given_beats_the_descriptors(sets):
    networks = sizes()
    features = random_features(sets)
    assert measured_of(sets, features, networks=networks).matches.threshold is None
    assert (
        measured_of(sets, features, networks=networks, copy_threshold=0.2).matches.threshold == 0.2
    )
    networks.extractors["descriptor"] = dataclasses.replace(
        networks.extractors["descriptor"], copy_threshold=0.95
    )
    assert measured_of(sets, features, networks=networks).matches.threshold == 0.95
    assert (
        measured_of(sets, features, networks=networks, copy_threshold=0.0).matches.threshold == 0.0
    )


def test_images_without_a_prompt_stand_for_themselves_in_the_bootstrap(sets):
    sets.queries[1] = Query("1.png")
    sets.queries[3] = dataclasses.replace(sets.queries[3], prompt="edited", source_prompt="")
    assert measured_of(sets, random_features(sets)).origins.prompts == ["p0", "1.png", "p2", ""]


WORDS = {
    "p0": [1.0, 0.0],
    "p1": [0.0, 1.0],
    "p2": [0.6, 0.8],
    "p3": [0.8, 0.6],
    "caption": [-1.0, 0.0],
    "edited": [0.0, -1.0],
}


@pytest.fixture
def towers():
    """Networks with a CLIP whose texts are vectors by hand."""
    networks = sizes()
    texts = Extractor(None, None, texts=lambda prompts: torch.tensor([WORDS[p] for p in prompts]))
    networks.extractors |= {"clip": texts, "clip_dcr": texts}
    return networks


def test_images_are_aligned_with_their_own_prompts_and_training_images_with_captions(sets, towers):
    images = (
        torch.tensor([[2.0, 0.0], [0.0, 3.0], [1.0, 0.0], [0.0, 1.0]]),
        torch.tensor([[1.0, 0.0]] * 5),
    )
    found = {
        "descriptor": random_features(sets),
        "clip": images,
        "clip_dcr": tuple(-f for f in images),
    }
    rows = measured_of(sets, found, networks=towers).networks.cosines
    assert set(rows) == {
        f"{k}{end}"
        for k in ("clipscore", "clipscore_edited", "clipscore_bg")
        for end in ("", "_dcr")
    }
    assert rows["clipscore"] == pytest.approx([1, 1, 0.6, 0.6])
    assert rows["clipscore_dcr"] == pytest.approx([-1, -1, -0.6, -0.6])
    assert rows["clipscore_bg"] == pytest.approx([-1, *[np.nan] * 4], nan_ok=True)
    assert np.isnan(rows["clipscore_edited"]).all()  # none was edited


def test_edited_prompts_are_scored_when_one_was_edited(sets, towers):
    sets.queries[1] = dataclasses.replace(sets.queries[1], prompt="edited")
    images = torch.tensor([[2.0, 0.0], [0.0, 3.0], [1.0, 0.0], [0.0, 1.0]]), torch.ones(5, 2)
    rows = measured_of(
        sets, {"descriptor": random_features(sets), "clip": images}, networks=towers
    ).networks.cosines
    # of the source, whatever the model was given
    assert rows["clipscore"] == pytest.approx([1, 1, 0.6, 0.6])
    assert rows["clipscore_edited"] == pytest.approx([1, -1, 0.6, 0.6])
    assert "clipscore_dcr" not in rows


def test_complexity_is_that_of_each_generations_best_match(sets):
    found = measured_of(sets, random_features(sets), num_matches=3)
    expected = [
        complexity.of_image(sets.training.open(int(m))) for m in found.matches.indices[:, 0]
    ]
    assert len({e[0] for e in expected}) > 1
    assert found.complexity.entropy == pytest.approx([e[0] for e in expected])
    assert found.complexity.total_variation == pytest.approx([e[2] for e in expected])


def test_the_whole_matrix_is_kept_where_asked(sets, tmp_path):
    generated, training = random_features(sets)
    measured_of(sets, (generated, training)).on_demand.write_matrix(tmp_path / "m.npy")
    np.testing.assert_allclose(
        np.load(tmp_path / "m.npy"), unit_rows(generated) @ unit_rows(training).T, atol=1e-3
    )


# Metrics ------------------------------------------------------------------------------------------


def test_what_cannot_be_measured_is_left_out_or_an_error_when_named(sets):
    networks = sizes()
    networks.missing["fid"] = "no Inception"
    found = measured_of(
        dataclasses.replace(sets, known=TrainingFacts(captions=sets.known.captions)),
        random_features(sets),
        networks=networks,
    )
    row, left_out = measurement.compute(metrics.asked(None), found, sets, named=False)
    assert {"sim_mean", "bg_mean", "cc_ent"} <= set(row)
    assert left_out == {
        "duplication": metrics.NO_RUN,
        "fid": "no Inception",
        "clip": metrics.NO_PROMPTS,
        **dict.fromkeys(("fd", "kid"), "its features were not computed"),
        "prdc": "needs 6 generated and 6 training images; there are 4 and 5",
        "mq": "needs 1 generated and 50 training images; there are 4 and 5",
    }
    row, left_out = measurement.compute(metrics.asked(("similarity",)), found, sets, named=True)
    assert (set(row), left_out) == (set(metrics.similarity(found)), {})
    with pytest.raises(
        UsageError,
        match="^--metrics='duplication' cannot be computed: which training images are dup",
    ):
        measurement.compute(metrics.asked(("similarity", "duplication")), found, sets, named=True)


def test_what_was_found_to_be_no_image_when_listed_stays_named(sets):
    listed = {
        side: dataclasses.replace(getattr(sets, side), bad=(("pipe.png", "is a pipe"),))
        for side in ("generated", "training")
    }
    sets.generated.path(0).write_bytes(b"")
    _, read = read_features(dataclasses.replace(sets, **listed), sizes(), max_bad=0.9)
    assert [key for key, _ in read.generated.bad] == ["pipe.png", "0.png"]
    assert [key for key, _ in read.training.bad] == ["pipe.png"]
