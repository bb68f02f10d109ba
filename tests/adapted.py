"""Miniatures with trained adapters, for tests of what is written of them and read back."""

import torch

from tests import pipelines
from utils.files import adapter_folder
from utils.models import adapters, families, fingerprints, loading
from utils.models.adapters import AdapterShape

ENCODER_LAYERS = ("q_proj", "k_proj", "v_proj", "out_proj")
LAYERS = {
    "SD 3": ("attn.to_q", "attn.to_v", "attn.add_k_proj", "attn.to_out.0"),
    "Flux": ("to_q", "to_v", "to_out.0", "ff.net.2", "proj_mlp", "proj_out"),
}
SIDE = 16
SHAPE = AdapterShape(rank=4, alpha=8)


def images(pipeline, seed=0):
    """Two steps of a pipeline: [1, 3, 16, 16]."""
    generator = torch.Generator().manual_seed(seed)
    for part in pipeline.components.values():
        if isinstance(part, torch.nn.Module):
            part.eval()
    return pipeline(
        "a red circle",
        height=SIDE,
        width=SIDE,
        num_inference_steps=2,
        generator=generator,
        output_type="pt",
    ).images


def adapted_parts(pipeline):
    """{part: network} of the denoiser and of the CLIP encoders."""
    denoiser = families.FAMILIES[type(pipeline).__name__].denoiser
    encoders = [
        name
        for name in ("text_encoder", "text_encoder_2")
        if type(getattr(pipeline, name, None)).__name__.startswith("CLIPText")
    ]
    return {name: getattr(pipeline, name) for name in (denoiser, *encoders)}


def seen(pipeline):
    """What each network is called with when the pipeline makes an image: {part: (args, kwargs)}."""
    calls, hooks = {}, []
    for part, network in adapted_parts(pipeline).items():

        def keep(module, args, kwargs, part=part):
            calls[part] = (args, kwargs)

        hooks.append(network.register_forward_pre_hook(keep, with_kwargs=True))
    images(pipeline)
    for hook in hooks:
        hook.remove()
    return calls


def inject(pipeline, name, shape, seed=5):
    """Adapters in all networks that can have them. name: of the miniature."""
    parts = adapted_parts(pipeline)
    for part, network in parts.items():
        clip = part.startswith("text_encoder")
        layers = ENCODER_LAYERS if clip else LAYERS.get(name, ("to_q", "to_k", "to_v", "to_out.0"))
        adapters.inject(network, shape, layers, seed=seed, part=part)
    return parts


def train(pipeline, calls, *, steps=3, rate=0.05):
    """Steps of AdamW by which each network learns a fixed random output."""
    for part, network in adapted_parts(pipeline).items():
        args, kwargs = calls[part]
        network.train()
        optimizer = torch.optim.AdamW(adapters.weights_of(network).values(), lr=rate)
        for _ in range(steps):
            output = network(*args, **kwargs)
            output = output[0] if isinstance(output, tuple) else next(iter(output.values()))
            generator = torch.Generator().manual_seed(1)
            target = torch.randn(output.shape, generator=generator)
            (output.float() - target).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()


def trained(name, shape, *, dtype=torch.float32):
    """A miniature with trained adapters on networks of a dtype, which then are float32 again."""
    pipeline = pipelines.miniature(name)
    calls = seen(pipeline)
    parts = adapted_parts(pipeline)
    for network in parts.values():
        rounded(network, dtype)
    inject(pipeline, name, shape)
    train(pipeline, calls if dtype == torch.float32 else in_dtype(calls, dtype))
    for network in parts.values():
        network.float()
    return pipeline


def rounded(network, dtype):
    """The network with weights of a dtype."""
    for parameter in network.parameters():
        parameter.data = parameter.data.to(dtype)


def in_dtype(value, dtype):
    """Nested containers of tensors with floating-point tensors in a dtype."""
    if isinstance(value, torch.Tensor):
        return value.to(dtype) if value.is_floating_point() else value
    if isinstance(value, dict):
        return {key: in_dtype(each, dtype) for key, each in value.items()}
    if isinstance(value, tuple | list):
        return type(value)(in_dtype(each, dtype) for each in value)
    return value


def checkpoint(folder, base, pipeline, **facts):
    """A LoRA checkpoint as training writes it. base: folder of the pipeline that was adapted; its
    networks are read anew for the record."""
    parts = adapted_parts(pipeline)
    folder.mkdir(parents=True, exist_ok=True)
    adapters.save(folder / adapter_folder.WEIGHTS, parts)
    plain = loading.load_pipeline("--x", str(base))
    recorded = adapter_folder.Base(
        str(base),
        type(pipeline).__name__,
        {part: fingerprints.in_precisions(getattr(plain, part)) for part in parts},
    )
    adapter_folder.write_record(folder, recorded, rank=SHAPE.rank, alpha=SHAPE.alpha, **facts)
    return folder
