import pytest
import torch
from safetensors.torch import load_file, save_file

from utils.models import loading
from utils.models import lora as lora_weights
from utils.runtime.errors import UsageError

FLAG = "--x"
LAYERS = ("to_q", "to_v", "to_out.0", "ff.net.0.proj", "q_proj", "out_proj", "mlp.fc1")


@pytest.fixture
def pipeline(micro_sd):
    return loading.load_pipeline(FLAG, str(micro_sd))


def kohya(pipeline, alpha=0.5, rank=2):
    """LoRA weights as kohya's trainer names them, on both networks. Returns: {name: tensor},
    {(part, name of the weight): what it must add}."""
    torch.manual_seed(0)
    state, deltas = {}, {}
    for part, prefix in (("unet", "lora_unet_"), ("text_encoder", "lora_te_text_model_")):
        for name, layer in getattr(pipeline, part).named_modules():
            if isinstance(layer, torch.nn.Linear) and name.endswith(LAYERS):
                key = prefix + name.removeprefix("text_model.").replace(".", "_")
                down = torch.randn(rank, layer.in_features)
                up = torch.randn(layer.out_features, rank)
                state |= {f"{key}.lora_down.weight": down, f"{key}.lora_up.weight": up}
                if alpha is not None:
                    state[f"{key}.alpha"] = torch.tensor(alpha)
                scale = 1 if alpha is None else alpha / rank
                deltas[part, f"{name}.weight"] = scale * up @ down
    return state, deltas


def saved(state, path):
    save_file(state, path)
    return str(path)


@pytest.mark.parametrize("alpha", [None, 0.5, 4.0])
def test_kohyas_weights_add_alpha_over_rank_times_up_down(pipeline, micro_sd, tmp_path, alpha):
    """All layers by hand, the attention of the text encoder too, and no other weight changes."""
    state, deltas = kohya(pipeline, alpha)
    assert {part for part, _ in deltas} == {"unet", "text_encoder"}
    lora_weights.load_lora(pipeline, saved(state, tmp_path / "l.safetensors"))
    before = loading.load_pipeline(FLAG, str(micro_sd))
    for part in ("unet", "text_encoder"):
        old, new = getattr(before, part).state_dict(), getattr(pipeline, part).state_dict()
        assert set(old) == set(new)
        for name, value in old.items():
            wanted = value + deltas.get((part, name), 0)
            torch.testing.assert_close(new[name], wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("make", [kohya, None])
def test_tensors_of_other_names_are_counted_and_refused(pipeline, lora, tmp_path, make):
    state = make(pipeline)[0] if make else load_file(next(lora.iterdir()))
    unet = [name for name in state if "unet" in name]
    renamed = {n.replace("to_q", "to_foo") if n in unet else n: state[n] for n in state}
    tensors = [name for name in state if not name.endswith(".alpha")]
    lost = [name for name in tensors if name in unet and "to_q" in name]
    assert lost
    message = f"{len(lost)} of {len(tensors)} tensors fit no layer of the model, the first 'unet"
    with pytest.raises(UsageError, match=message):
        lora_weights.load_lora(pipeline, saved(renamed, tmp_path / "l.safetensors"))


@pytest.mark.parametrize("half", ["down", "up"])
def test_half_a_pair_is_refused(pipeline, lora, tmp_path, half):
    state = load_file(next(lora.iterdir()))
    del state[next(name for name in state if f"lora.{half}" in name)]
    with pytest.raises(UsageError, match="--lora="):
        lora_weights.load_lora(pipeline, saved(state, tmp_path / "l.safetensors"))


def test_prefixes_are_taken_off_and_said(pipeline, micro_sd, lora, tmp_path):
    state = load_file(next(lora.iterdir()))
    place = saved({"module." + n: state[n] for n in state}, tmp_path / "l.safetensors")
    said = []
    lora_weights.load_lora(pipeline, place, said.append)
    other = loading.load_pipeline(FLAG, str(micro_sd))
    lora_weights.load_lora(other, str(lora))
    one, two = pipeline.unet.state_dict(), other.unet.state_dict()
    assert all(torch.equal(one[name], two[name]) for name in two)
    assert "prefix" in said[0]


def test_other_kinds_of_weights_are_refused_with_the_whole_reason(pipeline, tmp_path):
    state, _ = kohya(pipeline)
    loha = {n.replace("lora_down.weight", "hada_w1_a"): state[n] for n in state}
    with pytest.raises(
        UsageError, match=r"holds LoHa weights .*hada_w1_a.* only LoRA .* can be add"
    ):
        lora_weights.require_lora(saved(loha, tmp_path / "loha.safetensors"))
    lokr = {n.replace("lora_down.weight", "lokr_w1"): state[n] for n in state}
    with pytest.raises(UsageError, match="holds LoKr weights"):
        lora_weights.require_lora(saved(lokr, tmp_path / "lokr.safetensors"))
    with pytest.raises(UsageError, match="holds no LoRA weights: none of its 1 names contains 'lo"):
        lora_weights.require_lora(saved({"a": torch.zeros(1)}, tmp_path / "a.safetensors"))
    half = dict(state)
    del half[next(iter(half))]
    with pytest.raises(UsageError) as error:
        lora_weights.load_lora(pipeline, saved(half, tmp_path / "half.safetensors"))
    assert "not been correctly renamed: lora_unet" in str(error.value)
    assert "\n" not in str(error.value)
