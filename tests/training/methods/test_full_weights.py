import torch

from utils.training import steps
from utils.training.methods.full_weights import FullWeights


def test_all_weights_of_the_networks_learn_in_float32(micro_parts, tmp_path):
    parts = micro_parts()
    method = FullWeights()
    assert method.base_dtype(torch.bfloat16) == torch.float32
    for network in parts.networks.values():
        network.requires_grad_(False)
    learning = {"unet": parts.denoiser}
    method.prepare(learning, parts, steps.of(parts))
    weights = method.weights(learning)
    assert list(weights) == [f"unet.{name}" for name, _ in parts.denoiser.named_parameters()]
    assert all(weight.requires_grad for weight in weights.values())
    assert not any(p.requires_grad for p in parts.vae.parameters())
    method.save(parts.assemble(), tmp_path / "m")
    assert (tmp_path / "m" / "model_index.json").is_file()
