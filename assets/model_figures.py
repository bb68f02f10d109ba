"""The figures that a model of this folder must reach, on captions that it has not seen."""

import numpy as np
import torch

from assets import scene_batches
from benchmarks import scene_reader
from utils.data import scenes
from utils.files.whole_files import whole_file
from utils.runtime import seeding

CAPTIONS = 200
CALL = {"num_inference_steps": 25, "guidance_scale": 3.0}


def held_out_scenes():
    """The scenes on whose first captions a model is measured."""
    return [scenes.scene_at(i, stream="tiny-sd/held-out") for i in range(CAPTIONS)]


def measure(pipeline, held_out, *, seed, stream, **call):
    """Generate an image for the first caption of each scene and compare it with the caption.

    seed, stream: of the noise, as in scene_batches.latent_batches; call: further arguments of the
    pipeline's call.
    Returns: ({figure: number}, [PIL image])."""
    generated = generate(pipeline, held_out, seed=seed, stream=stream, **call)
    pictures = [s.image for s in held_out]
    copies = copy_shares({"generated": generated, "held-out": pictures})
    psnr = autoencoder_psnr(pipeline.vae, held_out, pipeline.device)
    read, rule = obeyed(generated, held_out), obeyed(pictures, held_out)
    figures = {
        "captions": len(held_out),
        "autoencoder_psnr_db": round(psnr, 2),
        **{f"{name}_right": share for name, share in read.items()},
        "background_rule_right_on_scenes": rule["background"],
        "copies_of_first_2000": copies["generated"],
        "chance_copies_of_held_out_scenes": copies["held-out"],
    }
    return figures, generated


def obeyed(pictures, held_out):
    """{attribute that a caption names: share of pictures that show it}, by
    benchmarks.scene_reader."""
    readings = [scene_reader.read_scene(picture) for picture in pictures]
    return {
        name: float(
            np.mean(
                [
                    getattr(reading, name) == getattr(scene_reader.asked_of(s.captions[0]), name)
                    for reading, s in zip(readings, held_out, strict=True)
                ]
            )
        )
        for name in scene_reader.ATTRIBUTES
    }


def autoencoder_psnr(vae, held_out, device):
    """Return the mean PSNR of reconstructed scenes, in dB."""
    images = np.stack([np.asarray(s.image) for s in held_out])
    mean, _ = scene_batches.encode_all(vae, images, device)
    with torch.no_grad():
        decoded = vae.decode(mean).sample.clamp(-1, 1)
    error = (decoded / 2 - scene_batches.to_pixels(images, device) / 2).square().flatten(1).mean(1)
    return (-10 * error.log10()).mean().item()


def generate(pipeline, held_out, *, seed, stream, **call):
    """Generate an image for the first caption of each scene. Returns: [PIL image]."""
    generated = []
    for start in range(0, len(held_out), 20):
        batch = range(start, min(start + 20, len(held_out)))
        generated += pipeline(
            [held_out[i].captions[0] for i in batch],
            generator=[seeding.torch_generator(seed, *stream, i) for i in batch],
            **CALL,
            **call,
        ).images
    return generated


def copy_shares(sets):
    """Compute the share of copies of the first 2,000 training scenes in each set of PIL images."""
    from PIL import Image

    from utils.data.transforms import pixel_input
    from utils.retrieval.descriptors.extractors import pixel_network
    from utils.retrieval.formulas.similarity import normalised, top_matches

    def described(pictures):
        return normalised(pixel_network(torch.stack([pixel_input(p) for p in pictures])))

    first, _ = scene_batches.draw_chunk(0)
    train, shares = described([Image.fromarray(a) for a in first[:2000]]), {}
    for name, pictures in sets.items():
        best, _ = top_matches(described(pictures), train, k=1)
        shares[name] = (best[:, 0] > 0.95).float().mean().item()
    return shares


def save_samples(path, held_out, generated):
    """Save up to 64 pairs of a held-out scene and the image generated from its caption."""
    from PIL import Image

    sheet = Image.new("RGB", (16 * 64, 8 * 64))
    for i in range(min(64, len(held_out))):
        x, y = 2 * (i % 8) * 64, i // 8 * 64
        sheet.paste(held_out[i].image, (x, y))
        sheet.paste(generated[i], (x + 64, y))
    with whole_file(path) as part:
        sheet.save(part, format="PNG")
