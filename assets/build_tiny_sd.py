"""Build assets/tiny-sd: Stable Diffusion's architecture, small enough for a laptop, pretrained on
scenes.

    python assets/build_tiny_sd.py    # tokenizer, autoencoder, text encoder, U-Net, figures, card

Every batch is a function of (seed, stage, step), and the state is saved to --work_dir every few
minutes: stop the build at any time and start it again. The scenes come from a random stream of
their own, which no --seed of the scenes command reaches, and the figures from a third one
(utils/runtime/seeding.py)."""

import argparse
import hashlib
import json
import os
import platform
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from assets import model_figures, scene_batches, tiny_sd_parts
from assets.build_stages import Stage
from utils.files.whole_files import write_json, write_text
from utils.runtime import seeding
from utils.training import latents as lat

HERE = Path(__file__).resolve().parent

# Training -----------------------------------------------------------------------------------------


def train_autoencoder(vae, args):
    stage = Stage(
        "autoencoder", {"vae": vae}, steps=args.autoencoder_steps, lr=2e-3, ema=0.998, args=args
    )
    stage.load()
    size = scene_batches.BATCH
    per_chunk = scene_batches.CHUNK // size

    def batches(step):
        for _number, images, _captions in scene_batches.chunks_from(step // per_chunk):
            for i in range(step % per_chunk, per_chunk):
                yield scene_batches.to_pixels(images[i * size : (i + 1) * size], args.device)
            step = 0

    def loss_of(step, pixels):
        posterior = vae.encode(pixels).latent_dist
        generator = seeding.torch_generator(args.seed, "tiny-sd/training", 1, step)
        noise = torch.randn(posterior.mean.shape, generator=generator).to(args.device)
        reconstruction = vae.decode(posterior.mean + posterior.std * noise).sample
        # a very small KL term keeps latents centred and bounded, as in latent diffusion
        kl = 1e-5 * posterior.kl().mean() / noise[0].numel()
        return (reconstruction - pixels).square().mean() + kl

    if stage.step < stage.steps:
        stage.run(batches, loss_of, save_every=per_chunk)
    stage.take_ema()
    return stage


def measure_scaling_factor(vae, args):
    """Return the factor that gives the latents of the first chunk unit variance."""
    images, _ = scene_batches.draw_chunk(0)
    mean, std = scene_batches.encode_all(vae, images, args.device)
    generator = seeding.torch_generator(args.seed, "tiny-sd/training", 2)
    noise = torch.randn(mean.shape, generator=generator).to(args.device)
    return round(1 / (mean + std * noise).std().item(), 5)


def train_unet(vae, tokenizer, text_encoder, unet, args):
    modules = {"text_encoder": text_encoder, "unet": unet}
    # a state for another vocabulary has embeddings for other ids, and nothing else would show it
    vocabulary = json.dumps(tokenizer.get_vocab(), sort_keys=True).encode()
    made_for = {"vocabulary": hashlib.sha256(vocabulary).hexdigest()[:8]}
    stage = Stage(
        "unet", modules, steps=args.unet_steps, lr=1.2e-3, ema=0.9995, args=args, made_for=made_for
    )
    stage.load()
    order = {"seed": args.seed, "stream": ("tiny-sd/training", 3), "device": args.device}

    def batches(step):
        return scene_batches.latent_batches(vae, step, **order)

    if stage.step < stage.steps:
        loss_of = denoising_loss(vae, tokenizer, text_encoder, unet, args)
        stage.run(batches, loss_of, save_every=scene_batches.steps_of_chunk())
    stage.take_ema()
    return stage


def denoising_loss(vae, tokenizer, text_encoder, unet, args):
    """Return the loss of the U-Net's stage: (step, batch) -> scalar tensor."""
    from diffusers import DDPMScheduler

    only_ddim = ("set_alpha_to_one", "steps_offset")
    settings = {k: v for k, v in tiny_sd_parts.SCHEDULER.items() if k not in only_ddim}
    scheduler, words = DDPMScheduler(**settings), tiny_sd_parts.common_words()

    def loss_of(step, batch):
        mean, std, captions = batch
        rng = seeding.numpy_rng(args.seed, "tiny-sd/training", 4, step)
        generator = seeding.torch_generator(args.seed, "tiny-sd/training", 5, step)
        texts = [scene_batches.training_caption(c, rng, words) for c in captions]
        ids = tokenizer(
            texts, padding="max_length", truncation=True, return_tensors="pt"
        ).input_ids.to(args.device)
        sampled, noise = torch.randn(2, *mean.shape, generator=generator).to(args.device)
        timesteps = torch.randint(1000, (len(texts),), generator=generator).to(args.device)
        clean = lat.posterior_sample(mean, std, sampled, scaling_factor=vae.config.scaling_factor)
        noisy = scheduler.add_noise(clean, noise, timesteps)
        pred = unet(noisy, timesteps, encoder_hidden_states=text_encoder(ids)[0]).sample
        return lat.squared_error(pred, noise).mean()

    return loss_of


# Figures and model card ---------------------------------------------------------------------------


def measure(folder, args):
    """Compute the figures that tiny-sd must reach, on held-out captions, and print them.

    Returns: {figure: number}."""
    from diffusers import DPMSolverMultistepScheduler, StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(folder, dtype=torch.float32).to(args.device)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.scheduler = DPMSolverMultistepScheduler.from_config(pipeline.scheduler.config)
    held_out = model_figures.held_out_scenes()
    figures, generated = model_figures.measure(
        pipeline, held_out, seed=args.seed, stream=("tiny-sd/training", 6)
    )
    print(json.dumps(figures, indent=1))
    model_figures.save_samples(Path(args.work_dir) / "samples.png", held_out, generated)
    return figures


def model_card(figures, facts):
    template = (HERE / "model_card.md").read_text()
    return template.format(**figures, **facts)


def build_model(args):
    """Train all parts and save the pipeline. Returns: facts for the model card."""
    torch.manual_seed(seeding.derive_seed(args.seed, "tiny-sd/training", 0))  # initial weights
    tokenizer, share = tiny_sd_parts.build_tokenizer()
    vae = tiny_sd_parts.build_autoencoder().to(args.device)
    text_encoder = tiny_sd_parts.build_text_encoder(tokenizer).to(args.device)
    unet = tiny_sd_parts.build_unet().to(args.device)
    parts = {"vae": vae, "text_encoder": text_encoder, "unet": unet}
    sizes = {k: sum(p.numel() for p in m.parameters()) for k, m in parts.items()}
    print(" ".join(f"{k}: {v / 1e6:.2f} M" for k, v in sizes.items()), flush=True)
    first = train_autoencoder(vae, args)
    vae.register_to_config(scaling_factor=measure_scaling_factor(vae, args))
    second = train_unet(vae, tokenizer, text_encoder, unet, args)
    tiny_sd_parts.save_pipeline({**parts, "tokenizer": tokenizer}, args.out)
    losses = [t.item() for t in second.losses[-1000:]]
    return {
        "ids": len(tokenizer),
        "word_share": share,
        "scaling_factor": vae.config.scaling_factor,
        **{f"{k}_parameters": v for k, v in sizes.items()},
        "autoencoder_steps": first.steps,
        "autoencoder_minutes": first.seconds / 60,
        "unet_steps": second.steps,
        "unet_minutes": second.seconds / 60,
        "scenes_seen": second.steps * scene_batches.BATCH // scene_batches.PASSES,
        "loss": sum(losses) / len(losses) if losses else None,
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, {args.device}",
        "torch": torch.__version__,
        "seed": args.seed,
        "date": time.strftime("%Y-%m-%d"),
    }


def main(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", default=str(HERE / "tiny-sd"), help="folder of the pipeline")
    parser.add_argument("--work_dir", default=str(HERE / "build"), help="folder of the states")
    parser.add_argument("--seed", type=int, default=0, help="seed of weights, noise and figures")
    parser.add_argument(
        "--autoencoder_steps", type=int, default=2048, help="training steps of the autoencoder"
    )
    parser.add_argument(
        "--unet_steps", type=int, default=19_968, help="training steps of text encoder and U-Net"
    )
    parser.add_argument(
        "--device", default="cuda" if torch.cuda.is_available() else "cpu", help="torch device"
    )
    parser.add_argument(
        "--figures_only",
        action="store_true",
        help="only measure the pipeline in --out again and rewrite its model card",
    )
    args = parser.parse_args(argv)

    facts_path = Path(args.work_dir) / "facts.json"
    if not args.figures_only:
        write_json(facts_path, build_model(args))
    figures, facts = measure(args.out, args), json.loads(facts_path.read_text())
    write_text(Path(args.out) / "README.md", model_card(figures, facts))


if __name__ == "__main__":
    main()
