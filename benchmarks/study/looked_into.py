"""Numbers behind the reasons in docs/study.md, from the runs that a study left in its folder.

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
from utils.models.loading import embed, load_pipeline
from utils.reports.tables import markdown
from utils.runtime.seeding import torch_generator
from utils.training.latents import squared_error

TIMESTEPS = (900, 600, 300)
STYLES = {
    "caption": "dup_both",
    "class": "classlevel",
    "four random tokens": "instancelevel_random",
}


def prompt_response(model, prompts):
    """How much a model makes of the differences between prompts.

    model: a pipeline folder; prompts: [N]. Returns: (mean distance of the prompts' embeddings from
    their mean, mean distance of the predictions of the same noise from theirs, over TIMESTEPS)."""
    pipeline = load_pipeline("--out", str(model))
    with torch.no_grad():
        embeddings = embed(pipeline.tokenizer, pipeline.text_encoder, prompts, device="cpu")
        shape = (
            1,
            pipeline.unet.config.in_channels,
            pipeline.unet.config.sample_size,
            pipeline.unet.config.sample_size,
        )
        noise = torch.randn(shape, generator=torch_generator(0, "latents", 0)).expand(
            len(prompts), -1, -1, -1
        )
        moved = [
            pipeline.unet(
                noise, torch.full((len(prompts),), t), encoder_hidden_states=embeddings
            ).sample
            for t in TIMESTEPS
        ]
    return _spread(embeddings), float(np.mean([_spread(m) for m in moved]))


def _spread(values):
    return (values - values.mean(0)).flatten(1).norm(dim=1).mean().item()


def distance_moved(base, run):
    """Euclidean distance of a U-Net's weights from the base model's. base, run: pipeline
    folders."""
    one, other = (
        load_file(Path(p) / "unet" / "diffusion_pytorch_model.safetensors") for p in (base, run)
    )
    return math.sqrt(sum((one[k] - other[k]).square().sum().item() for k in one))


def skipped_share(run):
    """Share of draws that anti-gradient control skipped, of a run with --mem_ratio."""
    with open(Path(run) / "skips.csv", newline="", encoding="utf-8") as handle:
        lines = list(csv.DictReader(handle))
    return sum(int(line["skipped"]) for line in lines) / sum(int(line["drawn"]) for line in lines)


def copies_by_texture(plan, arm, seed):
    """{texture of the matched training scene: (copies, images)} of an arm."""
    specs = read_json(plan.scenes(experiments.ARMS[arm].training, seed) / "specs.json")
    found = {}
    with open(plan.reports(arm, seed)[0] / "matches.csv", newline="", encoding="utf-8") as handle:
        for line in csv.DictReader(handle):
            texture = specs[f"train/{line['match']}"]["texture"]
            copies, images = found.get(texture, (0, 0))
            found[texture] = copies + (float(line["score"]) > COPIED), images + 1
    return found


def losses(model, folder):
    """{texture: mean denoising loss} of the scenes of a folder under their own captions, with the
    same noise for each.

    model: a pipeline folder; mean of the squared error over eight timesteps, 100 to 800.
    """
    pipeline = load_pipeline("--out", str(model))
    captions, specs = (read_json(folder / f"{name}.json") for name in ("captions", "specs"))
    scheduler = DDPMScheduler.from_config(pipeline.scheduler.config)
    with torch.no_grad():
        clean = torch.stack([_pixels(folder / path) for path in captions])
        clean = pipeline.vae.encode(clean).latent_dist.mean * pipeline.vae.config.scaling_factor
        embeddings = embed(
            pipeline.tokenizer,
            pipeline.text_encoder,
            [c[0] for c in captions.values()],
            device="cpu",
        )
        found = torch.zeros(len(captions))
        for t in range(100, 900, 100):
            noise = torch.randn(
                1, *clean.shape[1:], generator=torch_generator(0, "latents", t)
            ).expand_as(clean)
            steps = torch.full((len(clean),), t)
            predicted = pipeline.unet(
                scheduler.add_noise(clean, noise, steps), steps, encoder_hidden_states=embeddings
            ).sample
            found += squared_error(predicted, noise) / 8
    textures = [specs[path]["texture"] for path in captions]
    return {
        t: float(np.mean([v for v, of in zip(found.tolist(), textures, strict=True) if of == t]))
        for t in set(textures)
    }


def _pixels(path):
    with Image.open(path) as image:
        return (
            torch.from_numpy(np.asarray(image.convert("RGB"), np.float32)).permute(2, 0, 1) / 127.5
            - 1
        )


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
    parser.add_argument("--seed", type=int, default=1, help="of its runs (default: %(default)s)")
    args = parser.parse_args(argv)
    plan = experiments.StudyPlan(args.out, experiments.Budget())
    if not plan.run("nodup", args.seed).is_dir():
        parser.error(
            f"argument --out: {str(args.out)!r} holds no runs of seed {args.seed}; run the study,"
            " or give its folder"
        )

    lines = []
    for style, training in STYLES.items():
        run = plan.run(training, args.seed)
        prompts = [each[0] for each in read_json(run / "captions.json").values()]
        for name, model in (
            ("base model", experiments.TINY_SD),
            ("trained with them", run / "checkpoint"),
        ):
            lines.append([style, name, *(f"{v:.2f}" for v in prompt_response(model, prompts))])
    captions = list(read_json(plan.run("dup_both", args.seed) / "captions.json").values())
    of_one = np.mean([prompt_response(experiments.TINY_SD, five) for five in captions[:8]], 0)
    lines.append(["the five captions of one image", "base model", *(f"{v:.2f}" for v in of_one)])
    print(
        markdown(("prompts", "model", "spread of embeddings", "spread of predictions"), lines),
        end="\n\n",
    )

    lines = []
    for name in ("nodup", *(t for t in experiments.TRAININGS if t.startswith(("IET", "AGC")))):
        run = plan.run(name, args.seed)
        if not (run / "checkpoint").exists():
            continue
        skipped = f"{100 * skipped_share(run):.1f}" if (run / "skips.csv").exists() else "-"
        lines.append(
            [name, f"{distance_moved(experiments.TINY_SD, run / 'checkpoint'):.2f}", skipped]
        )
    step = plan.budget.steps // plan.budget.rounds
    for part in range(1, plan.budget.rounds):
        checkpoint = plan.run("dup_both", args.seed) / f"checkpoint_{step * part}"
        lines.append(
            [
                f"dup_both, {step * part} steps",
                f"{distance_moved(experiments.TINY_SD, checkpoint):.2f}",
                "-",
            ]
        )
    print(markdown(("training", "weights moved by", "draws skipped, %"), lines), end="\n\n")

    folder = plan.scenes("nodup", args.seed)
    before, after = (
        losses(m, folder)
        for m in (experiments.TINY_SD, plan.run("nodup", args.seed) / "checkpoint")
    )
    lines = [
        [texture, f"{before[texture]:.4f}", f"{after[texture]:.4f}"] for texture in sorted(before)
    ]
    print(markdown(("texture", "loss of the base model", "trained, nodup"), lines), end="\n\n")

    lines = []
    for arm in ("base", "nodup", "dup_both"):
        for texture, (copies, images) in sorted(copies_by_texture(plan, arm, args.seed).items()):
            lines.append([arm, texture, str(images), str(copies)])
    print(markdown(("arm", "texture of the matched scene", "images", "copies"), lines))


if __name__ == "__main__":
    main()
