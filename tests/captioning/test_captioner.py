import shutil

import pytest
import torch
from PIL import Image

from tests.captioning.conftest import blip, word_tokenizer
from tests.captioning.test_nucleus import naive
from utils.captioning import captioner
from utils.captioning.captioner import Sampling
from utils.data import scenes
from utils.runtime.errors import UsageError

SAMPLING = Sampling(captions=3, top_p=0.8, min_length=4, max_length=9, seed=5)
CPU, KEYS = torch.device("cpu"), ("x/0.png", "1.png", "2.png", "3.png")


@pytest.fixture(scope="module")
def model(micro_blip):
    return captioner.load(str(micro_blip), SAMPLING, device=CPU, dtype=torch.float32)


def inputs(model, keys=KEYS, sampling=SAMPLING):
    """Pixels and random numbers of scenes, one for each key."""
    pictures = [scenes.scene_at(KEYS.index(key), size=24).image for key in keys]
    pixels = torch.stack([model.prepare(picture) for picture in pictures])
    return pixels, torch.stack([sampling.numbers(key) for key in keys])


def sampled_alone(network, pixels, numbers, sampling):
    """Tokens of one caption, by a loop that computes the whole sequence anew for every token."""
    config, end = network.config.text_config, network.config.text_config.sep_token_id
    seen = network.vision_model(pixel_values=pixels[None])[0]
    tokens = [config.bos_token_id]
    while len(tokens) < sampling.max_length:
        scores = network.text_decoder(
            torch.tensor([tokens]), encoder_hidden_states=seen, is_decoder=True
        ).logits[0, -1]
        if len(tokens) < sampling.min_length:
            scores[end] = -torch.inf
        number = numbers[len(tokens) - 1].item()
        tokens.append(naive(scores.softmax(-1).tolist(), number, sampling.top_p))
        if tokens[-1] == end:
            break
    return tokens


@torch.no_grad()
def test_captions_are_those_of_a_naive_loop_over_one_caption(model):
    pixels, numbers = inputs(model)
    drawn = model.tokens(pixels, numbers, SAMPLING)
    pad, lengths = word_tokenizer().pad_token_id, set()
    for row, tokens in enumerate(drawn):
        image, caption = divmod(row, SAMPLING.captions)
        wanted = sampled_alone(model.model, pixels[image], numbers[image, caption], SAMPLING)
        assert tokens.tolist() == wanted + [pad] * (drawn.shape[1] - len(wanted))
        lengths.add(len(wanted))
    assert len(lengths) > 1  # some captions end before the others


@pytest.mark.parametrize("folder", ["micro_blip", "micro_vit_gpt2"])
def test_the_captions_of_an_image_do_not_depend_on_the_images_beside_it(folder, request):
    source = str(request.getfixturevalue(folder))
    model = captioner.load(source, SAMPLING, device=CPU, dtype=torch.float32)
    together = model.captions(*inputs(model), SAMPLING)
    alone = [model.captions(*inputs(model, (key,)), SAMPLING)[0] for key in KEYS]
    reversed_ = model.captions(*inputs(model, KEYS[::-1]), SAMPLING)[::-1]
    assert together == alone == reversed_
    assert len({caption for listed in together for caption in listed}) >= 10
    assert all(3 <= len(c.split()) <= 8 for listed in together for c in listed if "[" not in c)


def test_more_captions_begin_with_the_fewer(model):
    more = Sampling(captions=7, top_p=0.8, min_length=4, max_length=9, seed=5)
    few = model.captions(*inputs(model), SAMPLING)
    many = model.captions(*inputs(model, sampling=more), more)
    assert [listed[:3] for listed in many] == few


def test_captions_depend_on_the_picture_and_on_the_seed(model):
    pixels, numbers = inputs(model)
    first = model.captions(pixels, numbers, SAMPLING)
    assert model.captions(pixels.flip(0), numbers, SAMPLING) != first
    other = Sampling(captions=3, top_p=0.8, min_length=4, max_length=9, seed=6)
    assert model.captions(*inputs(model, sampling=other), other) != first


def test_the_random_state_of_the_library_is_not_used(model):
    pixels, numbers = inputs(model)
    torch.manual_seed(1)
    first = model.captions(pixels, numbers, SAMPLING)
    torch.manual_seed(2)
    assert model.captions(pixels, numbers, SAMPLING) == first


# Loading ------------------------------------------------------------------------------------------


def load(source):
    captioner.require_source(str(source))
    return captioner.load(str(source), SAMPLING, device=CPU, dtype=torch.float32)


def test_weights_that_lack_tensors_are_refused(micro_blip, tmp_path):
    from safetensors.torch import load_file, save_file

    folder = shutil.copytree(micro_blip, tmp_path / "part")
    weights = load_file(folder / "model.safetensors")
    del weights["vision_model.encoder.layers.0.mlp.fc1.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(UsageError, match="lack 1 of the model's tensors, first 'vision_model"):
        load(folder)


def test_weights_that_hold_tied_tensors_twice_are_whole(micro_blip, tmp_path):
    from safetensors.torch import save_file

    folder = shutil.copytree(micro_blip, tmp_path / "whole")
    weights = {name: value.clone() for name, value in blip().state_dict().items()}
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    assert load(folder).captions(*inputs(load(micro_blip)), SAMPLING)


def test_a_model_of_another_kind_is_refused_with_a_reason(tmp_path, micro_blip, micro_sd):
    with pytest.raises(UsageError, match="has no config.json; use a folder as transformers'"):
        load(micro_sd)
    with pytest.raises(UsageError, match="cannot be loaded: Unrecognized configuration"):
        load(micro_sd / "text_encoder")
    shutil.copytree(micro_blip, tmp_path / "m")
    (tmp_path / "m" / "preprocessor_config.json").unlink()
    with pytest.raises(UsageError, match="cannot be loaded"):
        load(tmp_path / "m")
    with pytest.raises(UsageError, match="does not exist; use a folder"):
        load("./nowhere")


def test_a_caption_longer_than_the_model_reads_is_refused_before_the_first_image(micro_blip):
    long = Sampling(captions=1, top_p=0.9, min_length=60, max_length=60, seed=0)
    with pytest.raises(UsageError, match="does not caption a picture alone"):
        captioner.load(str(micro_blip), long, device=CPU, dtype=torch.float32)


def test_a_picture_of_any_mode_and_shape_is_prepared(model):
    assert model.prepare(Image.new("RGB", (1, 30))).shape == (3, 16, 16)
