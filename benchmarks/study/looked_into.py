"""Print the numbers behind the reasons in docs/study.md, from the runs in a study's folder.

python -m benchmarks.study.looked_into --out runs/study --seed 1
"""

import argparse
import csv
import math
from pathlib import Path

import numpy as np
import torch
from diffusers import DDPMScheduler
from PIL import Image
from safetensors.torch import load_file

from benchmarks.study import experiments
from benchmarks.study.findings import COPIED
from utils.files.whole_files import read_json
from utils.models.families import family_of
from utils.models.loading import load_pipeline
from utils.reports.tables import markdown
from utils.runtime.seeding import torch_generator
from utils.training.latents import squared_error

TIMESTEPS = (900, 600, 300)
STYLES = {
    "caption": "dup_both",
    "class": "classlevel",
    "four random tokens": "instancelevel_random",
}


def _embedded(pipeline, prompts):
    """Return the token embeddings of prompts, [N, T, D]."""
    return family_of(pipeline).encode(pipeline, list(prompts), "cpu")["prompt_embeds"]


def prompt_response(model, prompts):
    """Measure how strongly a model reacts to the differences between prompts.

    model: a pipeline folder; prompts: [N].
    Returns: (spread of the embeddings, spread of the noise predictions, mean over TIMESTEPS). A
    spread is the mean distance of the N values from their mean; the N predictions are for the same
    noise."""
    pipeline = load_pipeline("--out", str(model))
    with torch.no_grad():
        embeddings = _embedded(pipeline, prompts)
        config = pipeline.unet.config
        shape = (1, config.in_channels, config.sample_size, config.sample_size)
        noise = torch.randn(shape, generator=torch_generator(0, "latents", 0))
        noise = noise.expand(len(prompts), -1, -1, -1)
        predictions = [
            pipeline.unet(
                noise, torch.full((len(prompts),), t), encoder_hidden_states=embeddings
            ).sample
            for t in TIMESTEPS
        ]
    return _spread(embeddings), float(np.mean([_spread(p) for p in predictions]))


def _spread(values):
    return (values - values.mean(0)).flatten(1).norm(dim=1).mean().item()


def distance_moved(base, run):
    """Return the Euclidean distance between the U-Net weights of two pipeline folders."""
    one, other = (
        load_file(Path(p) / "unet" / "diffusion_pytorch_model.safetensors") for p in (base, run)
    )
    return math.sqrt(sum((one[k] - other[k]).square().sum().item() for k in one))


def skipped_share(run):
    """Return the share of draws that anti-gradient control skipped in a run with --mem_ratio."""
    with open(Path(run) / "skips.csv", newline="", encoding="utf-8") as handle:
        lines = list(csv.DictReader(handle))
    return sum(int(line["skipped"]) for line in lines) / sum(int(line["drawn"]) for line in lines)


def copies_by_texture(plan, arm, seed):
    """Count the copies of an arm: {texture of the matched training scene: (copies, images)}."""
    specs = read_json(plan.scenes(experiments.ARMS[arm].training, seed) / "specs.json")
    counts = {}
    with open(plan.reports(arm, seed)[0] / "matches.csv", newline="", encoding="utf-8") as handle:
        for line in csv.DictReader(handle):
            texture = specs[f"train/{line['match']}"]["texture"]
            copies, images = counts.get(texture, (0, 0))
            counts[texture] = copies + (float(line["score"]) > COPIED), images + 1
    return counts


def losses(model, folder):
    """Compute {texture: mean denoising loss} of the scenes of a folder under their own captions.

    model: a pipeline folder. The loss is the squared error averaged over eight timesteps, 100 to
    800; every scene gets the same noise."""
    pipeline = load_pipeline("--out", str(model))
    captions, specs = (read_json(folder / f"{name}.json") for name in ("captions", "specs"))
    scheduler = DDPMScheduler.from_config(pipeline.scheduler.config)
    with torch.no_grad():
        clean = torch.stack([_pixels(folder / path) for path in captions])
        clean = pipeline.vae.encode(clean).latent_dist.mean * pipeline.vae.config.scaling_factor
        embeddings = _embedded(pipeline, [c[0] for c in captions.values()])
        errors = torch.zeros(len(captions))
        for t in range(100, 900, 100):
            noise = torch.randn(
                1, *clean.shape[1:], generator=torch_generator(0, "latents", t)
            ).expand_as(clean)
            steps = torch.full((len(clean),), t)
            predicted = pipeline.unet(
                scheduler.add_noise(clean, noise, steps), steps, encoder_hidden_states=embeddings
            ).sample
            errors += squared_error(predicted, noise) / 8
    textures = [specs[path]["texture"] for path in captions]
    by_texture = {}
    for texture, error in zip(textures, errors.tolist(), strict=True):
        by_texture.setdefault(texture, []).append(error)
    return {texture: float(np.mean(values)) for texture, values in by_texture.items()}


def _pixels(path):
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB"), np.float32)
    return torch.from_numpy(pixels).permute(2, 0, 1) / 127.5 - 1


def responses_table(plan, seed):
    """The spread of embeddings and predictions, for each kind of prompt, before and after training
    with it."""
    lines = []
    for style, training in STYLES.items():
        run = plan.run(training, seed)
        prompts = [each[0] for each in read_json(run / "captions.json").values()]
        for name, model in (
            ("base model", experiments.TINY_SD),
            ("trained with them", run / "checkpoint"),
        ):
            lines.append([style, name, *(f"{v:.2f}" for v in prompt_response(model, prompts))])
    captions = list(read_json(plan.run("dup_both", seed) / "captions.json").values())
    of_one = np.mean([prompt_response(experiments.TINY_SD, five) for five in captions[:8]], 0)
    lines.append(["the five captions of one image", "base model", *(f"{v:.2f}" for v in of_one)])
    return markdown(("prompts", "model", "spread of embeddings", "spread of predictions"), lines)


def weights_table(plan, seed):
    """How far each training moved the weights, and how many draws it skipped."""
    lines = []
    for name in ("nodup", *(t for t in experiments.TRAININGS if t.startswith(("IET", "AGC")))):
        run = plan.run(name, seed)
        if not (run / "checkpoint").exists():
            continue
        skipped = f"{100 * skipped_share(run):.1f}" if (run / "skips.csv").exists() else "-"
        distance = distance_moved(experiments.TINY_SD, run / "checkpoint")
        lines.append([name, f"{distance:.2f}", skipped])
    step = plan.budget.steps // plan.budget.rounds
    for part in range(1, plan.budget.rounds):
        checkpoint = plan.run("dup_both", seed) / f"checkpoint_{step * part}"
        distance = distance_moved(experiments.TINY_SD, checkpoint)
        lines.append([f"dup_both, {step * part} steps", f"{distance:.2f}", "-"])
    return markdown(("training", "weights moved by", "draws skipped, %"), lines)


def losses_table(plan, seed):
    """The denoising loss for each texture, before and after training."""
    folder, trained = plan.scenes("nodup", seed), plan.run("nodup", seed) / "checkpoint"
    before, after = losses(experiments.TINY_SD, folder), losses(trained, folder)
    lines = [
        [texture, f"{before[texture]:.4f}", f"{after[texture]:.4f}"] for texture in sorted(before)
    ]
    return markdown(("texture", "loss of the base model", "trained, nodup"), lines)


def copies_table(plan, seed):
    """The number of copies for each arm and texture."""
    lines = []
    for arm in ("base", "nodup", "dup_both"):
        for texture, (copies, images) in sorted(copies_by_texture(plan, arm, seed).items()):
            lines.append([arm, texture, str(images), str(copies)])
    return markdown(("arm", "texture of the matched scene", "images", "copies"), lines)


def main(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("runs/study"),
        help="the study's folder (default: %(default)s)",
    )
    parser.add_argument(
        "--seed", type=int, default=1, help="seed of the runs to read (default: %(default)s)"
    )
    args = parser.parse_args(argv)
    plan = experiments.StudyPlan(args.out, experiments.Budget())
    if not plan.run("nodup", args.seed).is_dir():
        parser.error(
            f"argument --out: {str(args.out)!r} holds no runs of seed {args.seed}; run the study"
            " first, or use its folder"
        )
    for table in (responses_table, weights_table, losses_table, copies_table):
        print(table(plan, args.seed), end="\n\n", flush=True)


if __name__ == "__main__":
    main()
