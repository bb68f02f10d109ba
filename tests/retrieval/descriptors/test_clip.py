import json

import pytest
import torch
from torch.nn.functional import normalize

from utils.retrieval.descriptors import clip
from utils.retrieval.descriptors.weights import WeightsMissingError
from utils.runtime.errors import DataError, UsageError

open_clip = pytest.importorskip("open_clip")

FLAGS = {"flag": "--clip_model", "weights_flag": "--clip_pretrained"}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A CLIP of a few layers that open_clip knows by name, and a file of its random weights."""
    folder = tmp_path_factory.mktemp("clip")
    config = {
        "embed_dim": 16,
        "quick_gelu": True,
        "vision_cfg": {
            "image_size": 32,
            "layers": 2,
            "width": 32,
            "head_width": 16,
            "patch_size": 8,
        },
        "text_cfg": {
            "context_length": 77,
            "vocab_size": 49408,
            "width": 32,
            "heads": 2,
            "layers": 2,
        },
    }
    (folder / "tiny-clip-quickgelu.json").write_text(json.dumps(config))
    open_clip.add_model_config(folder)
    torch.manual_seed(0)
    model = open_clip.create_model("tiny-clip-quickgelu")
    torch.save(model.state_dict(), folder / "tiny.pt")
    return "tiny-clip-quickgelu", str(folder / "tiny.pt")


def test_both_towers_agree_with_open_clips_own_calls(tiny, wanted, noise):
    found = clip.load(*tiny, wanted(), **FLAGS)
    model, _, preprocess = open_clip.create_model_and_transforms(tiny[0], pretrained=tiny[1])
    model.eval()
    tokenizer = open_clip.get_tokenizer(tiny[0])
    images, prompts = (
        [noise(i, 80, 60) for i in range(3)],
        ["a red circle", "two blue stars", "noise"],
    )
    extractor = found.images()
    with torch.no_grad():
        theirs = model.encode_image(torch.stack([preprocess(i) for i in images]))
        texts = normalize(model.encode_text(tokenizer(prompts)), dim=1)
        ours = extractor.network(torch.stack([extractor.transform(i) for i in images]))
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found.texts(prompts, batch_size=2), texts, atol=1e-5, rtol=1e-5)
    assert extractor.transform(images[0]).dtype == torch.uint8
    assert len(extractor.record["weights_sha256"]) == 64


def test_the_published_crop_is_sscds(tiny, wanted, noise):
    """Short side 256, centre 224, mean and std of 0.5, whatever CLIP was trained with."""
    from torchvision.transforms import v2

    found = clip.load(*tiny, wanted(imsize=224), **FLAGS)
    extractor, image = found.images("dcr"), noise(0, 300, 260)
    steps = v2.Compose(
        [
            v2.Resize(256),
            v2.CenterCrop(224),
            v2.PILToTensor(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize([0.5] * 3, [0.5] * 3),
        ]
    )
    with torch.no_grad():
        expected = found.model.encode_image(steps(image)[None])
        torch.testing.assert_close(
            extractor.network(extractor.transform(image)[None]), expected, atol=1e-5, rtol=1e-5
        )
        own = found.images()
        assert (own.network(own.transform(image)[None]) - expected).abs().max() > 1e-3
    assert (extractor.record["protocol"], own.record["protocol"]) == ("dcr", "standard")
    other = clip.load(*tiny, wanted(), **FLAGS)
    assert other.record != found.record  # another side, other features
    with pytest.raises(
        UsageError,
        match="--clip_protocol='dcr' crops to 224 pixels; --clip_model='tiny-clip-quickgelu' needs",
    ):
        other.images("dcr")


def test_the_descriptor_takes_a_model_a_tag_or_a_file(tiny, wanted):
    name, path = tiny
    built = clip.build(wanted(arch=name, weights=path))
    assert built.network(torch.zeros(2, 32, 32, 3, dtype=torch.uint8)).shape == (2, 16)
    assert (built.record["arch"], built.record["model"]) == (name, name)
    # published names lead to OpenAI's weights with their activation
    for arch, model in clip.ARCHS.items():
        assert model in open_clip.list_models()
        with pytest.raises(
            WeightsMissingError, match=f"--arch={model!r}: weights 'openai' could not be fetched"
        ):
            clip.build(wanted(arch=arch))
    with pytest.raises(
        WeightsMissingError, match="weights 'laion2b_s34b_b79k' could not be fetched .* --weights"
    ):
        clip.build(wanted(arch="ViT-B-32:laion2b_s34b_b79k"))


@pytest.mark.parametrize(
    ("name", "tag", "right"),
    [
        ("ViT-B-16", "openai", "use ViT-B-16-quickgelu"),
        ("ViT-H-14-378", "dfn5b", "use ViT-H-14-378-quickgelu"),
    ],
)
def test_another_activation_than_the_weights_is_an_error(wanted, name, tag, right):
    with pytest.raises(UsageError, match=f"weights {tag!r} were trained with .*{right}"):
        clip.load(name, tag, wanted(), **FLAGS)


def test_wrong_names_and_files_are_one_line(tiny, wanted, tmp_path):
    with pytest.raises(UsageError, match="--clip_model='ViT-Q' is not a model of open_clip"):
        clip.load("ViT-Q", "openai", wanted(), **FLAGS)
    with pytest.raises(
        UsageError,
        match="--clip_pretrained='mine' is not a tag of ViT-B-16-quickgelu .*one of: openai",
    ):
        clip.load("ViT-B-16-quickgelu", "mine", wanted(), **FLAGS)
    with pytest.raises(UsageError, match=r"--clip_pretrained='/no/w\.pt' does not exist"):
        clip.load(tiny[0], "/no/w.pt", wanted(), **FLAGS)
    (tmp_path / "page.pt").write_text("<html>404</html>")
    with pytest.raises(DataError, match=r"page\.pt: is a web page"):
        clip.load(tiny[0], str(tmp_path / "page.pt"), wanted(), **FLAGS)
    torch.save({"a": torch.zeros(2)}, tmp_path / "other.pt")
    with pytest.raises(DataError, match=r"other\.pt' does not fit tiny-clip-quickgelu"):
        clip.load(tiny[0], str(tmp_path / "other.pt"), wanted(), **FLAGS)
