"""Build assets/tiny-sd3: Stable Diffusion 3's architecture, small enough for a laptop, pretrained
on the scenes of tiny-sd. It takes tiny-sd's autoencoder and tokenizer, and starts its first text
encoder from tiny-sd's.

    python assets/build_tiny_sd3.py    # text encoders, transformer, figures, card

Every batch is a function of (seed, step), and the state is saved to --work_dir every few minutes:
stop the build at any time and start it again, before the last quarter of its steps with another
--steps, too."""

import argparse
import json
import math
import os
import platform
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from assets import model_figures, scene_batches, tiny_sd3_parts, tiny_sd_parts
from assets.build_stages import Stage
from utils.files.whole_files import write_json, write_text
from utils.models.parts import Parts
from utils.runtime import seeding
from utils.training import latents as lat
from utils.training.steps.base import StepSettings
from utils.training.steps.sd3 import StableDiffusion3Step

HERE = Path(__file__).resolve().parent
STREAM = "tiny-sd3/training"
TIME_MEAN, TIME_STD = 0.4, 1.0  # of the logit of the drawn time; 0 and 1 in Stable Diffusion 3
ONE_TOKEN_SHARE = 0.5  # of steps: one zero token in T5's place; else as many as drawn, up to
MOST_TOKENS = 512
FALLS_FROM = 0.75  # of the steps: until then the rate is held


class HeldStage(Stage):
    """A stage whose rate is held and falls over the last quarter of its steps, so that a state from
    before that quarter continues to any number of steps (Hu et al. 2024)."""

    def __init__(self, *arguments, **settings):
        super().__init__(*arguments, **settings)
        del self.made_for["steps"]
        self.made_for["lr"] = self.lr

    def load(self):
        """Continue from the state file; exit if its rate, or that of these steps, has fallen."""
        if self.path.exists():
            info = json.loads(self.path.with_suffix(".json").read_text())
            before = info.get("steps", self.steps)
            if before != self.steps and info["step"] > FALLS_FROM * min(before, self.steps):
                sys.exit(
                    f"{self.path} is at step {info['step']} of {before}, where the rate falls; use"
                    f" --steps {before}, or another --work_dir"
                )
        super().load()

    def decayed(self):
        """1 while the rate is held, then half a cosine to 0."""
        late = max(0.0, self.step / self.steps - FALLS_FROM) / (1 - FALLS_FROM)
        return 0.5 * (1 + math.cos(math.pi * late))


def train(pipeline, args):
    """Train the transformer and both text encoders of a pipeline. Returns: the finished Stage."""
    parts = Parts(pipeline)
    modules = {"transformer": parts.denoiser, **parts.encoders}
    stage = HeldStage("transformer", modules, steps=args.steps, lr=args.lr, ema=0.999, args=args)
    stage.load()
    order = {"seed": args.seed, "stream": (STREAM, 1), "device": args.device}

    def batches(step):
        return scene_batches.latent_batches(parts.vae, step, **order)

    if stage.step < stage.steps:
        stage.run(batches, flow_loss(parts, args), save_every=scene_batches.steps_of_chunk())
    stage.take_ema()
    return stage


def flow_loss(parts, args):
    """Return the loss of a step: (step, batch) -> scalar tensor."""
    family = StableDiffusion3Step(parts, StepSettings(max_sequence_length=1))
    words, attention = tiny_sd_parts.common_words(), tiny_sd3_parts.RepeatedLastToken()
    parts.denoiser.set_attn_processor(attention)

    def loss_of(step, batch):
        mean, std, captions = batch
        rng = seeding.numpy_rng(args.seed, STREAM, 2, step)
        generator = seeding.torch_generator(args.seed, STREAM, 3, step)
        attention.stand_for(zero_tokens(rng))
        texts = [scene_batches.training_caption(c, rng, words) for c in captions]
        ids = {n: t.to(args.device) for n, t in family.token_ids(parts, texts).items()}
        sampled, noise = torch.randn(2, *mean.shape, generator=generator).to(args.device)
        logits = torch.randn(len(texts), generator=generator).to(args.device)
        sigma = torch.sigmoid(TIME_MEAN + TIME_STD * logits)
        clean = lat.posterior_sample(mean, std, sampled, **lat.scaling(parts.vae))
        noisy = torch.lerp(clean, noise, sigma[:, None, None, None])
        text = family.text(parts.encoders, ids)
        pred = family.predict(parts.denoiser, noisy, 1000 * sigma, text, {})
        return lat.squared_error(pred, noise - clean).mean()

    return loss_of


def zero_tokens(rng):
    """Draw how many zero tokens stand in T5's place: one, which is what the folder records, or a
    number from 1 to 512 whose logarithm is uniform, so that the pipeline's default of 256 works."""
    if rng.random() < ONE_TOKEN_SHARE:
        return 1
    return round(math.exp(rng.uniform(0, math.log(MOST_TOKENS))))


# Figures and model card ---------------------------------------------------------------------------


def measure(folder, args):
    """Compute the figures of tiny-sd3 and, on the same captions, of tiny-sd, and print them.

    Returns: {figure: number}, those of tiny-sd with unet_ before their names, and background_right
    with 256 zero tokens as default_background_right."""
    from diffusers import (
        DPMSolverMultistepScheduler,
        StableDiffusion3Pipeline,
        StableDiffusionPipeline,
    )

    held_out = model_figures.held_out_scenes()
    # parts that are null in model_index.json are named, or diffusers asks for them
    pipeline = StableDiffusion3Pipeline.from_pretrained(
        folder, text_encoder_3=None, tokenizer_3=None
    ).to(args.device)
    other = StableDiffusionPipeline.from_pretrained(HERE / "tiny-sd").to(args.device)
    other.scheduler = DPMSolverMultistepScheduler.from_config(other.scheduler.config)
    for each in (pipeline, other):
        each.set_progress_bar_config(disable=True)
    noise = {"seed": args.seed, "stream": (STREAM, 4)}
    figures, generated = model_figures.measure(
        pipeline, held_out, **noise, max_sequence_length=tiny_sd3_parts.ZERO_TOKENS
    )
    unet, _ = model_figures.measure(other, held_out, seed=0, stream=("tiny-sd/training", 6))
    few = held_out[: max(1, len(held_out) // 5)]
    usual = model_figures.obeyed(model_figures.generate(pipeline, few, **noise), few)
    figures |= {f"unet_{name}": number for name, number in unet.items()}
    figures |= {"default_captions": len(few), "default_background_right": usual["background"]}
    print(json.dumps(figures, indent=1))
    model_figures.save_samples(Path(args.work_dir) / "samples.png", held_out, generated)
    return figures


def build_model(args):
    """Train and save the pipeline. Returns: facts for the model card."""
    torch.manual_seed(seeding.derive_seed(args.seed, STREAM, 0))  # initial weights
    pipeline = tiny_sd3_parts.build_pipeline(HERE / "tiny-sd").to(args.device)
    networks = Parts(pipeline).networks
    sizes = {k: sum(p.numel() for p in m.parameters()) for k, m in networks.items()}
    print(" ".join(f"{k}: {v / 1e6:.2f} M" for k, v in sizes.items()), flush=True)
    stage = train(pipeline, args)
    pipeline.save_pretrained(args.out)
    losses = [t.item() for t in stage.losses[-1000:]]
    return {
        **{f"{k}_parameters": v for k, v in sizes.items()},
        "scaling_factor": pipeline.vae.config.scaling_factor,
        "steps": stage.steps,
        "lr": stage.lr,
        "minutes": stage.seconds / 60,
        "scenes_seen": stage.steps * scene_batches.BATCH // scene_batches.PASSES,
        "last_steps": len(losses),
        "loss": sum(losses) / len(losses) if losses else float("nan"),
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, {args.device}",
        "torch": torch.__version__,
        "seed": args.seed,
        "date": time.strftime("%Y-%m-%d"),
    }


def main(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", default=str(HERE / "tiny-sd3"), help="folder of the pipeline")
    parser.add_argument("--work_dir", default=str(HERE / "build"), help="folder of the state")
    parser.add_argument("--seed", type=int, default=0, help="seed of weights, noise and figures")
    parser.add_argument("--steps", type=int, default=19_968, help="training steps")
    parser.add_argument("--lr", type=float, default=2e-3, help="learning rate while it is held")
    parser.add_argument(
        "--device", default="cuda" if torch.cuda.is_available() else "cpu", help="torch device"
    )
    parser.add_argument(
        "--figures_only",
        action="store_true",
        help="only measure the pipeline in --out again and rewrite its model card",
    )
    args = parser.parse_args(argv)

    facts_path = Path(args.work_dir) / "tiny-sd3.json"
    facts_path.parent.mkdir(parents=True, exist_ok=True)
    if not args.figures_only:
        write_json(facts_path, build_model(args))
    figures, facts = measure(args.out, args), json.loads(facts_path.read_text())
    card = (HERE / "model_card_sd3.md").read_text().format(**figures, **facts)
    write_text(Path(args.out) / "README.md", card)


if __name__ == "__main__":
    main()
