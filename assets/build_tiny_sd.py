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
import math
import os
import platform
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from assets import tiny_sd_parts
from benchmarks import scene_reader
from utils.data import scenes
from utils.files.whole_files import whole_file, write_json, write_text
from utils.runtime import seeding
from utils.training import latents as lat
from utils.training.ema import decay_at

HERE = Path(__file__).resolve().parent
EMPTY_SHARE = 0.10  # of captions: replaced by an empty one, for classifier-free guidance
# of captions: get one to three words that no scene shows, as captions on the web have
EXTRA_SHARE = 0.20
# of those words: numbers; without them the embeddings of digits would never be trained
NUMBER_SHARE = 0.10
CHUNK, PASSES = 2048, 2  # scenes per chunk; how often the U-Net trains on each scene
BATCH = 16
FIGURE_CAPTIONS = 200


# Data ---------------------------------------------------------------------------------------------


def draw_chunk(chunk):
    """Draw the scenes from number chunk * CHUNK on, from the pretraining stream.

    Returns: uint8 [CHUNK, 64, 64, 3], captions [CHUNK][5]."""
    drawn = [scenes.scene_at(chunk * CHUNK + i, stream="tiny-sd/pretraining") for i in range(CHUNK)]
    return np.stack([np.asarray(s.image) for s in drawn]), [s.captions for s in drawn]


def chunks_from(first):
    """Yield (number, images, captions) from chunk `first` on. Another process draws the next chunk
    while the caller uses the current one."""
    with ProcessPoolExecutor(1) as pool:
        ahead = pool.submit(draw_chunk, first)
        while True:
            images, captions = ahead.result()
            ahead = pool.submit(draw_chunk, first + 1)
            yield first, images, captions
            first += 1


def to_pixels(images, device):
    """Convert uint8 [B, 64, 64, 3] to float32 [B, 3, 64, 64] in [-1, 1]."""
    return torch.from_numpy(images).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1


def training_caption(captions, rng, words):
    """Choose one of the five captions, sometimes empty or with one to three added words."""
    if rng.random() < EMPTY_SHARE:
        return ""
    text = captions[rng.integers(len(captions))].split(" ")
    if rng.random() < EXTRA_SHARE:
        for _ in range(rng.integers(1, 4)):
            if rng.random() < NUMBER_SHARE:
                word = str(rng.integers(100_000))
            else:
                word = words[rng.integers(len(words))]
            text.insert(rng.integers(len(text) + 1), word)
    return " ".join(text)


# Training -----------------------------------------------------------------------------------------


class Stage:
    """A stage of the build: modules, their EMA copies, AdamW with a cosine rate, and a state file
    that is either complete or absent."""

    def __init__(self, name, modules, *, steps, lr, ema, args, made_for=()):
        self.name, self.modules, self.steps, self.lr, self.decay = name, modules, steps, lr, ema
        self.path = Path(args.work_dir) / f"{name}.safetensors"
        self.params = [p for m in modules.values() for p in m.parameters()]
        self.optimizer = torch.optim.AdamW(self.params, lr=lr, weight_decay=1e-2, fused=True)
        self.ema = {
            k: {n: p.detach().clone() for n, p in m.state_dict().items()}
            for k, m in modules.items()
        }
        self.step, self.seconds, self.losses = 0, 0.0, []
        self.made_for = {"seed": args.seed, "steps": steps, **dict(made_for)}

    def load(self):
        """Continue from the state file, if it exists."""
        if not self.path.exists():
            return
        state = load_file(self.path)
        info = json.loads(self.path.with_suffix(".json").read_text())
        if info.get("made_for", self.made_for) != self.made_for:
            sys.exit(
                f"{self.path} was made for {info['made_for']}, not {self.made_for}; use another"
                " --work_dir"
            )
        for key, module in self.modules.items():
            module.load_state_dict({n: state[f"{key}/model/{n}"] for n in module.state_dict()})
            self.ema[key] = {
                n: state[f"{key}/ema/{n}"].to(self.params[0].device) for n in module.state_dict()
            }
        moments = {
            i: {k: state[f"optimizer/{i}/{k}"] for k in ("step", "exp_avg", "exp_avg_sq")}
            for i in range(len(self.params))
        }
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": moments, "param_groups": groups})
        self.step, self.seconds = int(state["step"]), info["seconds"]
        print(f"{self.name}: continues at step {self.step}")

    def save(self):
        state = {"step": torch.tensor(self.step)}
        for key, module in self.modules.items():
            state |= {f"{key}/model/{n}": p.contiguous() for n, p in module.state_dict().items()}
            state |= {f"{key}/ema/{n}": p.contiguous() for n, p in self.ema[key].items()}
        for i, moments in self.optimizer.state_dict()["state"].items():
            state |= {f"optimizer/{i}/{k}": v for k, v in moments.items()}
        with whole_file(self.path) as part:
            save_file({k: v.detach().cpu().clone() for k, v in state.items()}, part)
        write_json(
            self.path.with_suffix(".json"),
            {"seconds": self.seconds, "step": self.step, "made_for": self.made_for},
        )

    def update(self, loss, warm_up=200):
        """Take an optimizer step and update the EMA copies."""
        for group in self.optimizer.param_groups:
            decayed = 0.5 * (1 + math.cos(math.pi * self.step / self.steps))
            group["lr"] = self.lr * min(1.0, (self.step + 1) / warm_up) * decayed
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.params, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        decay = decay_at(self.step, self.decay)
        with torch.no_grad():
            for key, module in self.modules.items():
                current = module.state_dict()
                names = [n for n in current if current[n].is_floating_point()]
                torch._foreach_lerp_(
                    [self.ema[key][n] for n in names], [current[n] for n in names], 1 - decay
                )
        self.step += 1
        self.losses.append(loss.detach())

    def report(self, every=200):
        if self.step % every == 0:
            mean = torch.stack(self.losses[-every:]).mean().item()
            print(
                f"{self.name}: step {self.step}/{self.steps} loss {mean:.4f}, {self.seconds:.0f} s",
                flush=True,
            )

    def run(self, batches, loss_of, *, save_every):
        """Train until `steps`. batches(step) yields the batches from that step on."""
        while self.step < self.steps:
            for batch in batches(self.step):
                started = time.perf_counter()
                self.update(loss_of(self.step, batch))
                self.seconds += time.perf_counter() - started
                self.report()
                if self.step % save_every == 0 or self.step == self.steps:
                    self.save()
                if self.step == self.steps:
                    break

    def take_ema(self):
        """Replace the weights by their EMA copies, and freeze the modules."""
        for key, module in self.modules.items():
            module.load_state_dict(self.ema[key])
            module.eval().requires_grad_(False)


def train_autoencoder(vae, args):
    stage = Stage(
        "autoencoder", {"vae": vae}, steps=args.autoencoder_steps, lr=2e-3, ema=0.998, args=args
    )
    stage.load()
    per_chunk = CHUNK // BATCH

    def batches(step):
        for _number, images, _captions in chunks_from(step // per_chunk):
            for i in range(step % per_chunk, per_chunk):
                yield to_pixels(images[i * BATCH : (i + 1) * BATCH], args.device)
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


@torch.no_grad()
def encode_all(vae, images, device):
    """Encode uint8 [N, 64, 64, 3]. Returns: posterior mean and std, unscaled [N, 4, 16, 16]."""
    parts = [
        vae.encode(to_pixels(images[i : i + 64], device)).latent_dist
        for i in range(0, len(images), 64)
    ]
    return torch.cat([p.mean for p in parts]), torch.cat([p.std for p in parts])


def measure_scaling_factor(vae, args):
    """Return the factor that gives the latents of the first chunk unit variance."""
    images, _ = draw_chunk(0)
    mean, std = encode_all(vae, images, args.device)
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
    per_chunk = CHUNK * PASSES // BATCH

    def batches(step):
        for number, images, captions in chunks_from(step // per_chunk):
            mean, std = encode_all(vae, images, args.device)
            rng = seeding.numpy_rng(args.seed, "tiny-sd/training", 3, number)
            order = np.concatenate([rng.permutation(CHUNK) for _ in range(PASSES)])
            for picked in order.reshape(-1, BATCH)[step % per_chunk :]:
                yield mean[picked], std[picked], [captions[i] for i in picked]
            step = 0

    if stage.step < stage.steps:
        loss_of = denoising_loss(vae, tokenizer, text_encoder, unet, args)
        stage.run(batches, loss_of, save_every=per_chunk)
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
        texts = [training_caption(c, rng, words) for c in captions]
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
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(folder, dtype=torch.float32).to(args.device)
    pipeline.set_progress_bar_config(disable=True)
    held_out = [scenes.scene_at(i, stream="tiny-sd/held-out") for i in range(FIGURE_CAPTIONS)]
    psnr = autoencoder_psnr(pipeline.vae, held_out, args.device)
    generated = generate(pipeline, held_out, args.seed)
    copies = copy_shares({"generated": generated, "held-out": [s.image for s in held_out]})
    right = [
        scene_reader.read_background(i) == s.spec.background
        for i, s in zip(generated, held_out, strict=True)
    ]
    rule = [scene_reader.read_background(s.image) == s.spec.background for s in held_out]
    figures = {
        "captions": FIGURE_CAPTIONS,
        "autoencoder_psnr_db": round(psnr, 2),
        "background_right": float(np.mean(right)),
        "background_rule_right_on_scenes": float(np.mean(rule)),
        "copies_of_first_2000": copies["generated"],
        "chance_copies_of_held_out_scenes": copies["held-out"],
    }
    print(json.dumps(figures, indent=1))
    save_samples(Path(args.work_dir) / "samples.png", held_out, generated)
    return figures


def autoencoder_psnr(vae, held_out, device):
    """Return the mean PSNR of reconstructed scenes, in dB."""
    images = np.stack([np.asarray(s.image) for s in held_out])
    mean, _ = encode_all(vae, images, device)
    with torch.no_grad():
        decoded = vae.decode(mean).sample.clamp(-1, 1)
    error = (decoded / 2 - to_pixels(images, device) / 2).square().flatten(1).mean(1)
    return (-10 * error.log10()).mean().item()


def generate(pipeline, held_out, seed):
    """Generate an image for the first caption of each scene. Returns: [PIL image]."""
    from diffusers import DPMSolverMultistepScheduler

    pipeline.scheduler = DPMSolverMultistepScheduler.from_config(pipeline.scheduler.config)
    generated = []
    for start in range(0, FIGURE_CAPTIONS, 20):
        batch = range(start, start + 20)
        generated += pipeline(
            [held_out[i].captions[0] for i in batch],
            num_inference_steps=25,
            guidance_scale=3.0,
            generator=[seeding.torch_generator(seed, "tiny-sd/training", 6, i) for i in batch],
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

    first, _ = draw_chunk(0)
    train, shares = described([Image.fromarray(a) for a in first[:2000]]), {}
    for name, pictures in sets.items():
        best, _ = top_matches(described(pictures), train, k=1)
        shares[name] = (best[:, 0] > 0.95).float().mean().item()
    return shares


def save_samples(path, held_out, generated):
    """Save up to 64 pairs of a held-out scene and the image generated from its caption."""
    from PIL import Image

    sheet = Image.new("RGB", (16 * 64, 8 * 64))
    for i in range(min(64, FIGURE_CAPTIONS)):
        x, y = 2 * (i % 8) * 64, i // 8 * 64
        sheet.paste(held_out[i].image, (x, y))
        sheet.paste(generated[i], (x + 64, y))
    with whole_file(path) as part:
        sheet.save(part, format="PNG")


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
        "scenes_seen": second.steps * BATCH // PASSES,
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
