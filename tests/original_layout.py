"""A pipeline of Stable Diffusion 1 as one file in the layout of the original code: the conversion of
names that diffusers undoes when it reads such a file."""

import re

from safetensors.torch import save_file

RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}
UNET = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}


def _block_of_unet(name, layers):
    """The original code counts all layers of a U-Net's half, and a layer has its resnet, then its
    attention, then its change of size."""
    side, block, kind, number, rest = re.fullmatch(
        r"(down|up|mid)_block(?:s\.(\d+))?\.(\w+)\.(\d+)\.(.*)", name
    ).groups()
    number = int(number)
    if kind == "resnets":
        first, _, rest = rest.partition(".")
        rest = f"{RESNET[first]}.{rest}"
    if side == "mid":
        return f"middle_block.{2 * number + (kind == 'attentions')}.{rest}"
    place = int(block) * (layers + 1) + number
    if side == "down":
        if kind == "downsamplers":
            return f"input_blocks.{(int(block) + 1) * (layers + 1)}.0.op.{rest.split('.')[-1]}"
        return f"input_blocks.{place + 1}.{int(kind == 'attentions')}.{rest}"
    if kind == "upsamplers":
        return f"output_blocks.{int(block) * (layers + 1) + layers}.2.{rest}"
    return f"output_blocks.{place}.{int(kind == 'attentions')}.{rest}"


def _unet(name, layers):
    for ours, theirs in UNET.items():
        if name.startswith(ours + "."):
            return theirs + name.removeprefix(ours)
    return _block_of_unet(name, layers)


def _autoencoder(name, blocks):
    name = name.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
    name = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", name)
    name = re.sub(r"down_blocks\.(\d+)", r"down.\1", name)
    name = re.sub(r"up_blocks\.(\d+)", lambda m: f"up.{blocks - 1 - int(m[1])}", name)
    name = re.sub(r"(down|up)samplers\.0", r"\1sample", name)
    return name.replace(".resnets.", ".block.")


def original_state(pipeline):
    """All weights of a pipeline in one dictionary, with the names of the original code."""
    layers = pipeline.unet.config.layers_per_block
    blocks = len(pipeline.vae.config.block_out_channels)
    state = {
        f"model.diffusion_model.{_unet(name, layers)}": value
        for name, value in pipeline.unet.state_dict().items()
    }
    for name, value in pipeline.vae.state_dict().items():
        state[f"first_stage_model.{_autoencoder(name, blocks)}"] = value
    for name, value in pipeline.text_encoder.state_dict().items():
        name = name.removeprefix("text_model.")
        state[f"cond_stage_model.transformer.text_model.{name}"] = value
    return {name: value.contiguous() for name, value in state.items()}


def save_as_one_file(pipeline, path):
    """Write a pipeline as sites of models share it. Returns: path."""
    save_file(original_state(pipeline), path)
    return path
