import pickle
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from utils.models import loading
from utils.models.pipeline_files import FileChoice
from utils.runtime.errors import DataError, UsageError

FLAG = "--modelpath"
FILES = {
    "text_encoder": "model.safetensors",
    "unet": "diffusion_pytorch_model.safetensors",
    "vae": "diffusion_pytorch_model.safetensors",
}


@pytest.fixture
def model(micro_sd, tmp_path):
    """A copy of the pipeline that a test may damage."""
    return shutil.copytree(micro_sd, tmp_path / "model")


def change(model, part, edit):
    """Rewrite the weights of a part: edit({name: tensor}) -> {name: tensor}."""
    path = model / part / FILES[part]
    save_file(edit(load_file(path)), path)


def loaded(model, **choice):
    said = []
    pipeline = loading.load_pipeline(FLAG, str(model), choice=FileChoice(**choice), say=said.append)
    return pipeline, said


def same(one, other, part):
    a, b = (getattr(pipeline, part).state_dict() for pipeline in (one, other))
    return set(a) == set(b) and all(torch.equal(a[name], b[name]) for name in a)


def all_same(one, other):
    return all(same(one, other, part) for part in FILES)


def as_bin(model, part, name):
    path = model / part / FILES[part]
    torch.save(load_file(path), path.with_name(name))
    path.unlink()


@pytest.mark.parametrize("prefix", ["_orig_mod.", "module.", "module._orig_mod."])
@pytest.mark.parametrize("part", FILES)
def test_prefixes_of_compiled_and_wrapped_models_are_taken_off_and_said(
    model, micro_sd, part, prefix
):
    change(model, part, lambda state: {prefix + name: value for name, value in state.items()})
    pipeline, said = loaded(model)
    assert all_same(pipeline, loaded(micro_sd)[0])
    (line,) = said
    assert FILES[part] in line
    assert "prefix" in line


def test_a_prefix_within_names_is_taken_off_as_well(model, micro_sd):
    change(
        model,
        "unet",
        lambda state: {n.replace("mid_block.", "mid_block._orig_mod."): state[n] for n in state},
    )
    assert all_same(loaded(model)[0], loaded(micro_sd)[0])


@pytest.mark.parametrize("part", FILES)
def test_names_that_are_missing_are_one_line_and_never_drawn_at_random(model, part):
    change(model, part, lambda state: {"other." + name: value for name, value in state.items()})
    with pytest.raises(DataError, match=r"(\d+) of \1 names are missing, the first '") as error:
        loaded(model)
    assert f"{part}/{FILES[part]}" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_unet_without_its_middle_block_is_refused(model):
    change(
        model,
        "unet",
        lambda state: {n: state[n] for n in state if not n.startswith("mid_block")},
    )
    with pytest.raises(DataError, match="46 of 206 names are missing, the first 'mid_block.atten"):
        loaded(model)


@pytest.mark.parametrize("part", FILES)
def test_shapes_that_differ_and_names_without_a_place_are_refused(model, part):
    def widened(state):
        name = sorted(state)[0]
        return state | {name: torch.zeros(3, 5), "foo.bar": torch.zeros(2)}

    change(model, part, widened)
    message = r"1 names belong to no weights of the network, the first 'foo.bar'; 1 shapes differ,"
    with pytest.raises(DataError, match=rf"{message} the first '.*' \(file \[3, 5\], network \["):
        loaded(model)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("part", FILES)
def test_weights_that_are_not_finite_are_refused(model, part, value):
    def damaged(state):
        name = sorted(state)[-1]
        state[name].view(-1)[-1] = value
        return state

    change(model, part, damaged)
    with pytest.raises(DataError, match="1 of .* tensors hold values that are not finite, the fir"):
        loaded(model)


def test_weights_that_overflow_in_half_precision_are_refused(model):
    change(model, "vae", lambda state: {n: state[n] * 1e6 for n in state})
    loaded(model)
    with pytest.raises(DataError, match="not finite as float16"):
        loading.load_pipeline(FLAG, str(model), dtype=torch.float16)


def test_a_tokenizer_of_another_model_is_refused(model):
    path = model / "text_encoder"
    config = (path / "config.json").read_text()
    vocabulary = load_file(path / "model.safetensors")["embeddings.token_embedding.weight"]
    (path / "config.json").write_text(
        config.replace(f'"vocab_size": {len(vocabulary)}', '"vocab_size": 40')
    )
    change(
        model,
        "text_encoder",
        lambda s: s | {"embeddings.token_embedding.weight": vocabulary[:40].clone()},
    )
    with pytest.raises(DataError, match=r"tokenizer has \d+ ids, and text_encoder embeddings for"):
        loaded(model)


def test_a_variant_is_found_where_it_is_all_there_is_and_said(model, micro_sd):
    for part, name in FILES.items():
        path = model / part / name
        path.rename(path.with_name(name.replace(".safetensors", ".fp16.safetensors")))
    named, said = loaded(model, variant="fp16")
    assert all_same(named, loaded(micro_sd)[0])
    assert said == []
    found, said = loaded(model)
    assert all_same(found, loaded(micro_sd)[0])
    assert said == [
        "weights of the variant 'fp16' are read, as there are no others: text_encoder, unet, vae"
    ]
    with pytest.raises(UsageError, match=r"--variant='non_ema': .* holds weights of fp16; choose"):
        loaded(model, variant="non_ema")


def test_a_variant_of_some_parts_is_read_with_the_other_parts(model, micro_sd):
    path = model / "unet" / FILES["unet"]
    half = {name: value.half() for name, value in load_file(path).items()}
    save_file(half, path.with_name("diffusion_pytorch_model.fp16.safetensors"))
    pipeline, said = loaded(model, variant="fp16")
    assert not same(pipeline, loaded(micro_sd)[0], "unet")
    assert same(pipeline, loaded(micro_sd)[0], "vae")
    assert said == [
        "there are no weights of the variant 'fp16' of text_encoder, vae; the others are read"
    ]
    assert all_same(loaded(model)[0], loaded(micro_sd)[0])
    with pytest.raises(UsageError, match="--variant='ema': .* holds no weights of this variant"):
        loaded(model, variant="ema")


def test_weights_in_torchs_format_are_read_as_tensors_alone_and_said(model, micro_sd, caplog):
    as_bin(model, "unet", "diffusion_pytorch_model.bin")
    as_bin(model, "vae", "diffusion_pytorch_model.bin")
    as_bin(model, "text_encoder", "pytorch_model.bin")
    pipeline, said = loaded(model)
    assert all_same(pipeline, loaded(micro_sd)[0])
    assert (
        sorted(line.split(": ")[1] for line in said)
        == ["is in torch's pickled format; only its tensors were read"] * 3
    )
    assert "unsafe" not in caplog.text


class Hostile:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize("plain_pickle", [True, False])
@pytest.mark.parametrize("part", ["unet", "text_encoder"])
def test_a_pickle_that_runs_code_is_refused_and_runs_none(model, tmp_path, part, plain_pickle):
    name = "pytorch_model.bin" if part == "text_encoder" else "diffusion_pytorch_model.bin"
    as_bin(model, part, name)
    content = {"weight": torch.zeros(2), "more": Hostile(tmp_path / "touched")}
    if plain_pickle:
        (model / part / name).write_bytes(pickle.dumps(content))
    else:
        torch.save(content, model / part / name)
    with pytest.raises(DataError, match=r"holds more than tensors, and could run code; it is not"):
        loaded(model)
    assert not (tmp_path / "touched").exists()


def in_parts(model, *, index):
    """Write the U-Net's weights in two parts, as diffusers does."""
    import json

    path = model / "unet" / FILES["unet"]
    state = load_file(path)
    path.unlink()
    names, places = sorted(state), {}
    for number, part in enumerate((names[:100], names[100:]), 1):
        file = f"diffusion_pytorch_model-{number:05}-of-00002.safetensors"
        save_file({name: state[name] for name in part}, path.with_name(file))
        places |= dict.fromkeys(part, file)
    if index:
        text = json.dumps({"metadata": {"total_size": 1}, "weight_map": places})
        path.with_name("diffusion_pytorch_model.safetensors.index.json").write_text(text)


@pytest.mark.parametrize("index", [True, False])
def test_weights_in_parts_are_read_and_a_missing_part_is_named(model, micro_sd, index):
    in_parts(model, index=index)
    assert all_same(loaded(model)[0], loaded(micro_sd)[0])
    (model / "unet" / "diffusion_pytorch_model-00002-of-00002.safetensors").unlink()
    with pytest.raises(DataError, match="1 of 2 parts of the weights are missing, the first 2 of"):
        loaded(model)


def test_a_whole_file_is_read_although_an_index_names_parts(model, micro_sd):
    whole = (model / "unet" / FILES["unet"]).read_bytes()
    in_parts(model, index=True)
    (model / "unet" / FILES["unet"]).write_bytes(whole)
    for part in (model / "unet").glob("*-of-*"):
        part.unlink()
    assert all_same(loaded(model)[0], loaded(micro_sd)[0])


def test_a_network_without_weights_is_named(model):
    (model / "vae" / FILES["vae"]).unlink()
    with pytest.raises(UsageError, match="--modelpath='.*' is not complete: '.*/vae' holds no wei"):
        loaded(model)


def test_the_network_of_a_trainers_checkpoint_takes_the_place_of_the_models(
    micro_sd, micro_parts, tmp_path
):
    unet = micro_parts().denoiser
    with torch.no_grad():
        unet.conv_in.weight += 1
    unet.save_pretrained(tmp_path / "checkpoint-500" / "unet")
    for place in (tmp_path / "checkpoint-500" / "unet", tmp_path / "checkpoint-500"):
        pipeline, _ = loaded(micro_sd, unet=str(place))
        assert torch.equal(pipeline.unet.conv_in.weight, unet.conv_in.weight)
        assert same(pipeline, loaded(micro_sd)[0], "vae")
    with pytest.raises(
        UsageError, match="holds a network alone, without model_index.json; give .*"
    ):
        loaded(tmp_path / "checkpoint-500")


def test_a_network_that_does_not_fit_the_pipeline_is_refused(micro_sd, tmp_path):
    with pytest.raises(UsageError, match="--unet='.*' is not the folder of a network; give one"):
        loaded(micro_sd, unet=str(tmp_path))
    with pytest.raises(UsageError, match="--unet='.*/vae' has _class_name 'AutoencoderKL', and th"):
        loaded(micro_sd, unet=str(micro_sd / "vae"))
