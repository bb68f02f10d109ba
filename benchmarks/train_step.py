"""Measure the time of a training step: ours, the published recipe's, and that of the bare network.

    python benchmarks/train_step.py                    # tiny-sd on the CPU
    python benchmarks/train_step.py --shape sd21 --mixed_precision bf16
                                                       # on a GPU: Stable Diffusion 2.1's shape,
                                                       # random weights

Four sides take turns for five rounds; the table gives medians.

- published: decode, encode and embed at every step, float32, AdamW with torch's defaults; the
  progress bar reads the loss at every step.
- ours: the whole loop of diff_train.py, logging included; the outputs of the frozen networks are
  cached beside the run.
- ours, nothing kept: the same with --cache_latents off.
- bare: forward, backward and optimizer step of the U-Net on fixed tensors.

With `--lora_rank 8` the sides are these; on a GPU the memory of the two of ours is measured in a
process of its own each:

- LoRA, diffusers' recipe: its training script for LoRA, written anew: model, autoencoder and text
  encoder in the precision of the run, everything encoded at every step, AdamW with torch's
  defaults, the loss read at every step.
- LoRA, ours and full weights, ours: the whole loop of diff_train.py.
- LoRA, bare: forward, backward and optimizer step of U-Net and adapters on fixed tensors.

Each side has its own copy of the same model, and the same batch size, images, threads and
workers."""

import argparse
import copy
import itertools
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.commands import flag_strings  # noqa: E402

# dense FLOP/s as the maker states them; a multiply-add counts as two operations
BF16_PEAK = {"H200": 989e12, "H100": 989e12, "A100": 312e12}

SD21_TEXT_ENCODER = {
    "vocab_size": 49408,
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 23,
    "num_attention_heads": 16,
    "max_position_embeddings": 77,
    "hidden_act": "gelu",
    "projection_dim": 512,
}
SD21_AUTOENCODER = {
    "sample_size": 768,
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2,
    "latent_channels": 4,
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
}
SD21_UNET = {
    "sample_size": 64,
    "block_out_channels": (320, 640, 1280, 1280),
    "layers_per_block": 2,
    "cross_attention_dim": 1024,
    "attention_head_dim": (5, 10, 20, 20),
    "use_linear_projection": True,
}


def sd21_folder(out):
    """Write a pipeline folder in the shape of Stable Diffusion 2.1 (base), with random weights.

    Returns: its path."""
    import torch
    from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    from utils.models import parts as parts_of

    torch.manual_seed(0)
    tiny = parts_of.load_parts("--model", str(ROOT / "assets" / "tiny-sd"))
    tokenizer = copy.deepcopy(tiny.tokenizer)
    tokenizer.model_max_length = 77
    text_encoder = CLIPTextModel(CLIPTextConfig(**SD21_TEXT_ENCODER))
    vae, unet = AutoencoderKL(**SD21_AUTOENCODER), UNet2DConditionModel(**SD21_UNET)
    scheduler = DDIMScheduler.from_config(tiny.scheduler.config)
    tiny.replace(
        tokenizer=tokenizer,
        text_encoder=text_encoder,
        vae=vae,
        unet=unet,
        scheduler=scheduler,
    )
    tiny.assemble().save_pretrained(out)
    return out


def our_loop(*common, kept, rank=None):
    """As built_loop. Returns: (an endless iterator of steps, seconds that filling the cache
    took)."""
    loop, seconds = built_loop(*common, kept=kept, rank=rank)
    return loop.positions(), seconds


def built_loop(model, data, side, batch, args, out, *, kept, rank=None):
    """Build the loop of diff_train.py. kept: whether outputs of frozen networks are cached; rank:
    of LoRA, None for full weights.

    Returns: (the loop, seconds that filling the cache took)."""
    from utils.files import run_folder
    from utils.runtime import launching, parallel
    from utils.training import data_job, training_job, training_loop

    run = run_folder.NewRun(out / "run")
    opts = options_of(model, data, side, batch, args, run.path, rank)
    accelerator = launching.accelerator(mixed_precision=opts.mixed_precision)
    processes = parallel.Processes(accelerator)
    job = training_job.prepare(opts, data_job.checked_data(opts, print), accelerator, opts.seed)
    started = time.perf_counter()
    if kept:
        training_job.encode(job, opts, out / "encoded", processes)
    seconds = time.perf_counter() - started
    run.path.mkdir(parents=True, exist_ok=True)
    loop = training_loop.Loop(job, training_job.loop_settings(opts), run, processes)
    return loop, seconds


def options_of(model, data, side, batch, args, run, rank):
    """Return the TrainOptions of our sides. run: the folder of the run; rank: as in our_loop."""
    from utils.cli import flags, train_options

    words = {
        "--pretrained_model_name_or_path": model,
        "--instance_data_dir": data / "train",
        "--instance_prompt_loc": data / "captions.json",
        "--class_prompt": "instancelevel_blip",
        "--resolution": side,
        "--center_crop": True,
        "--random_flip": True,
        "--train_batch_size": batch,
        "--max_train_steps": 100_000,
        "--save_steps": 100_000,
        "--modelsavesteps": 100_000,
        "--learning_rate": "5e-6",
        "--seed": 1,
        "--num_workers": args.num_workers,
        "--mixed_precision": args.mixed_precision,
        "--report_to": "none",
        "--output_dir": run,
        "--compile": args.compile,
    } | ({} if rank is None else {"--lora_rank": rank})
    return flags.parse(train_options.TrainOptions, flag_strings(words), description="")


class CaptionedImages:
    """The data set of the published recipe: item i is (pixels, token ids), computed when read."""

    def __init__(self, data, prepare, tokenizer):
        self.data, self.prepare, self.tokenizer = data, prepare, tokenizer
        self.captions = json.loads((data / "captions.json").read_text())
        self.keys = sorted(self.captions)

    def __len__(self):
        return len(self.keys)

    def __getitem__(self, index):
        from PIL import Image

        key = self.keys[index]
        ids = self.tokenizer(
            self.captions[key][0], truncation=True, padding="max_length", return_tensors="pt"
        ).input_ids[0]
        return self.prepare(Image.open(self.data / key).convert("RGB")), ids


def published_batches(data, side, batch, workers, tokenizer):
    """Yield the batches of the published recipe, epoch after epoch without an end."""
    import torch
    from torchvision import transforms

    prepare = transforms.Compose(
        [
            transforms.Resize(side),
            transforms.CenterCrop(side),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize([0.5], [0.5]),
        ]
    )
    loader = torch.utils.data.DataLoader(
        CaptionedImages(data, prepare, tokenizer),
        batch_size=batch,
        shuffle=True,
        drop_last=True,
        num_workers=workers,
    )
    while True:
        yield from loader


def published_loop(model, data, side, batch, args, device):
    """Train as the published trainers do, plainly written. Yields after every step."""
    import torch
    from diffusers import DDPMScheduler
    from tqdm import tqdm

    from utils.models import parts as parts_of

    parts = parts_of.load_parts("--model", str(model))
    vae, text_encoder = parts.vae.to(device), parts.encoders["text_encoder"].to(device)
    unet = parts.denoiser.to(device).train()
    vae.requires_grad_(False)
    text_encoder.requires_grad_(False)
    scheduler = DDPMScheduler.from_config(parts.scheduler.config)
    optimizer = torch.optim.AdamW(unet.parameters(), lr=5e-6)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
    bar = tqdm(disable=None if sys.stderr.isatty() else True)
    for pixels, ids in published_batches(data, side, batch, args.num_workers, parts.tokenizer):
        latents = vae.encode(pixels.to(device)).latent_dist.sample() * vae.config.scaling_factor
        noise = torch.randn_like(latents)
        timesteps = torch.randint(
            0, scheduler.config.num_train_timesteps, (len(latents),), device=device
        )
        noisy = scheduler.add_noise(latents, noise, timesteps)
        pred = unet(noisy, timesteps, encoder_hidden_states=text_encoder(ids.to(device))[0]).sample
        loss = torch.nn.functional.mse_loss(pred.float(), noise.float())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(unet.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        bar.set_postfix(loss=loss.item())
        bar.update()
        yield


def bare_loop(model, side, batch, args, device):
    """Repeat forward, backward and optimizer step on the same tensors, which every loop has to
    compute. Yields after every step."""
    import torch

    from utils.models import adapters
    from utils.models import parts as parts_of

    half = args.mixed_precision == "bf16"
    dtype = torch.bfloat16 if half and args.lora_rank else torch.float32
    parts = parts_of.load_parts("--model", str(model), dtype=dtype)
    unet = parts.denoiser.to(device).train()
    if args.lora_rank:
        shape = adapters.AdapterShape(args.lora_rank, args.lora_rank)
        adapters.inject(unet, shape, TARGETS, seed=0, part="unet")
    learning = [p for p in unet.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(learning, lr=5e-6, fused=True)
    noisy = torch.randn(
        batch, parts.vae.config.latent_channels, *[side // parts.vae_factor] * 2, device=device
    )
    target, timesteps = torch.randn_like(noisy), torch.randint(1000, (batch,), device=device)
    text = torch.randn(
        batch, parts.tokenizer.model_max_length, unet.config.cross_attention_dim, device=device
    )
    if args.compile:
        unet.compile()
    while True:
        with torch.autocast(device.type, torch.bfloat16, enabled=half):
            pred = unet(noisy, timesteps, encoder_hidden_states=text).sample
        (pred.float() - target).square().mean().backward()
        torch.nn.utils.clip_grad_norm_(learning, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        yield


RECIPE = "LoRA, diffusers' recipe"
TARGETS = ("to_k", "to_q", "to_v", "to_out.0")


def lora_recipe_loop(model, data, side, batch, args, device):
    """Train LoRA as diffusers' script for it does, plainly written. Yields after every step."""
    import torch
    from diffusers import DDPMScheduler
    from peft import LoraConfig
    from tqdm import tqdm

    from utils.models import parts as parts_of

    half = args.mixed_precision == "bf16"
    dtype = torch.bfloat16 if half else torch.float32
    parts = parts_of.load_parts("--model", str(model), dtype=dtype)
    vae, text_encoder = parts.vae.to(device), parts.encoders["text_encoder"].to(device)
    unet = parts.denoiser.to(device)
    for network in (vae, text_encoder, unet):
        network.requires_grad_(False)
    rank = args.lora_rank
    unet.add_adapter(
        LoraConfig(r=rank, lora_alpha=rank, init_lora_weights="gaussian", target_modules=TARGETS)
    )
    learning = [p for p in unet.parameters() if p.requires_grad]
    unet.train()
    scheduler = DDPMScheduler.from_config(parts.scheduler.config)
    optimizer = torch.optim.AdamW(learning, lr=1e-4)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
    bar = tqdm(disable=None if sys.stderr.isatty() else True)
    for pixels, ids in published_batches(data, side, batch, args.num_workers, parts.tokenizer):
        latents = vae.encode(pixels.to(device, dtype)).latent_dist.sample()
        latents = latents * vae.config.scaling_factor
        noise = torch.randn_like(latents)
        timesteps = torch.randint(
            0, scheduler.config.num_train_timesteps, (len(latents),), device=device
        )
        noisy = scheduler.add_noise(latents, noise, timesteps)
        with torch.autocast(device.type, torch.bfloat16, enabled=half):
            text = text_encoder(ids.to(device))[0]
            pred = unet(noisy, timesteps, encoder_hidden_states=text).sample
        loss = torch.nn.functional.mse_loss(pred.float(), noise.float())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(learning, 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        bar.set_postfix(loss=loss.item())
        bar.update()
        yield


def flops_of_a_step(model, side):
    """Count the floating-point operations of the U-Net, forward and backward, for one image."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from utils.models import parts as parts_of

    parts = parts_of.load_parts("--model", str(model))
    unet = parts.denoiser
    noisy = torch.randn(1, parts.vae.config.latent_channels, *[side // parts.vae_factor] * 2)
    text = torch.randn(1, parts.tokenizer.model_max_length, unet.config.cross_attention_dim)
    with FlopCounterMode(display=False) as counter:
        unet(noisy, torch.tensor([1]), encoder_hidden_states=text).sample.mean().backward()
    return counter.get_total_flops()


def measure(sides, steps, rounds, device):
    """Measure seconds per step while the sides take turns, and the peak of device memory above the
    memory before each turn.

    Returns: ({name: [seconds] * rounds}, {name: bytes or None}).
    """
    import torch

    times, peaks = {name: [] for name in sides}, dict.fromkeys(sides)

    def wait():
        if device.type == "cuda":
            torch.cuda.synchronize()

    for loop in sides.values():  # warm up: allocations, first touches, compilers
        for _ in itertools.islice(loop, 3):
            pass
    for _ in range(rounds):
        for name, loop in sides.items():
            if device.type == "cuda":
                torch.cuda.reset_peak_memory_stats()
                before = torch.cuda.memory_allocated()
            wait()
            started = time.perf_counter()
            for _ in itertools.islice(loop, steps):
                pass
            wait()
            times[name].append((time.perf_counter() - started) / steps)
            if device.type == "cuda":
                peaks[name] = torch.cuda.max_memory_allocated() - before
    return times, peaks


def parse(argv):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", choices=("tiny-sd", "sd21"), default="tiny-sd", help="the model")
    parser.add_argument("--steps", type=int, default=25, help="training steps per turn")
    parser.add_argument("--rounds", type=int, default=5, help="rounds after the warm-up")
    parser.add_argument("--batch", type=int, default=16, help="batch size")
    parser.add_argument("--images", type=int, default=256, help="number of training images")
    parser.add_argument("--num_workers", type=int, default=2, help="loader workers of each side")
    parser.add_argument(
        "--mixed_precision",
        choices=("no", "bf16"),
        default="no",
        help="precision of our sides and of the bare network",
    )
    parser.add_argument(
        "--compile", action="store_true", help="compile the U-Net of our sides and the bare network"
    )
    parser.add_argument("--lora_rank", type=int, help="measure LoRA of this rank")
    parser.add_argument("--memory_of", choices=("lora", "full"), help=argparse.SUPPRESS)
    parser.add_argument("--work_dir", help="folder for all files (default: a temporary one)")
    return parser.parse_args(argv)


def main(argv=None):
    args = parse(argv)
    from utils.data import scenes
    from utils.runtime import devices

    device = devices.default_device()
    scratch = tempfile.TemporaryDirectory()
    out = Path(args.work_dir or scratch.name)
    side = 64 if args.shape == "tiny-sd" else 256
    model = ROOT / "assets" / "tiny-sd" if args.shape == "tiny-sd" else sd21_folder(out / "sd21")
    scenes.write_scenes(out / "scenes", count=args.images, seed=0, size=side)
    common = (model, out / "scenes", side, args.batch, args)
    if args.lora_rank:
        measure_lora(common, out, device)
        return
    cached, seconds = our_loop(*common, out / "kept", kept=True)
    uncached, _ = our_loop(*common, out / "anew", kept=False)
    sides = {
        "published": published_loop(*common, device),
        "ours": cached,
        "ours, nothing kept": uncached,
        "bare": bare_loop(model, side, args.batch, args, device),
    }
    times, peaks = measure(sides, args.steps, args.rounds, device)
    median = {name: statistics.median(t) for name, t in times.items()}
    report(args, side, device, times, peaks, median)
    print(
        f"encoding ahead, once: {seconds:.1f} s for {args.images} images in both orientations and"
        " their captions"
    )
    print(f"peak memory of the process: {devices.peak_memory(device)['host'] / 2**30:.2f} GiB")
    peak = next((v for k, v in BF16_PEAK.items() if k in name_of(device)), None)
    if peak and device.type == "cuda":
        speed = flops_of_a_step(model, side) * args.batch / median["ours"]
        print(f"our U-Net: {speed / 1e12:.1f} TFLOP/s, {speed / peak:.1%} of the GPU's bf16 peak")


def memory_of(method, common, out, device):
    """Return the bytes that training with a method takes. On a GPU: the peak of a process that has
    taken five steps. On a CPU, where libraries and freed memory hide it: those of the denoiser, of
    the gradients and of the optimizer's state, without activations, which both methods have."""
    import torch

    rank = common[-1].lora_rank if method == "lora" else None
    loop, _ = built_loop(*common, out / f"memory-{method}", kept=True, rank=rank)
    for _ in itertools.islice(loop.positions(), 5):
        pass
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated()
    model = loop.job.model
    moments = (value for state in model.optimizer.state.values() for value in state.values())
    held = (*model.parts.denoiser.parameters(), *model.weights.values(), *moments)
    return sum(each.numel() * each.element_size() for each in held)


def measured_apart(method, args, out):
    """Run memory_of in a process of its own. Returns: bytes."""
    words = {**vars(args), "memory_of": method, "work_dir": out / f"apart-{method}"}
    given = flag_strings({f"--{name}": value for name, value in words.items() if value})
    command = [sys.executable, __file__, *given]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return int(printed.splitlines()[-1])


def measure_lora(common, out, device):
    """Measure and print the sides of --lora_rank, or the memory of one of ours."""
    *_, side, batch, args = common
    if args.memory_of:
        print(memory_of(args.memory_of, common, out, device))
        return
    sides = {
        RECIPE: lora_recipe_loop(*common, device),
        "LoRA, ours": our_loop(*common, out / "lora", kept=True, rank=args.lora_rank)[0],
        "full weights, ours": our_loop(*common, out / "full", kept=True)[0],
        "LoRA, bare": bare_loop(common[0], side, batch, args, device),
    }
    times, _ = measure(sides, args.steps, args.rounds, device)
    memory = {}
    for name, method in (("LoRA, ours", "lora"), ("full weights, ours", "full")):
        apart = device.type == "cuda"  # a peak is that of a process
        memory[name] = (
            measured_apart(method, args, out) if apart else memory_of(method, common, out, device)
        )
    median = {name: statistics.median(t) for name, t in times.items()}
    report(args, side, device, times, dict.fromkeys(sides) | memory, median)


def report(args, side, device, times, peaks, median):
    """Print the table of the sides and the ratios of their times."""
    from utils.reports.tables import markdown

    rows = []
    for name, t in times.items():
        spread, memory = f"{1000 * min(t):.1f} to {1000 * max(t):.1f}", peaks[name]
        shown = "-" if memory is None else f"{memory / 2**30:.{2 if memory > 2**30 else 4}f}"
        rows.append(
            [name, f"{1000 * median[name]:.1f}", spread, f"{args.batch / median[name]:.1f}", shown]
        )
    print(
        f"\n{args.shape}, {side} px, batch {args.batch}, {name_of(device)}, ours and bare in"
        f" {args.mixed_precision}, {args.rounds} rounds of {args.steps} steps\n"
    )
    kind = "all in all" if device.type == "cuda" else "weights, gradients, moments"
    memory = f"GiB, {kind}" if args.lora_rank else "GiB above weights and moments"
    print(markdown(("side", "ms a step (median)", "range", "images/s", memory), rows))
    if args.lora_rank:
        ours = median["LoRA, ours"]
        print(
            f"\nrecipe / ours: {median[RECIPE] / ours:.2f}   full weights / ours:"
            f" {median['full weights, ours'] / ours:.2f}   ours / bare:"
            f" {ours / median['LoRA, bare']:.3f}"
        )
        return
    print(
        f"\npublished / ours: {median['published'] / median['ours']:.2f}   published / ours,"
        f" nothing kept: {median['published'] / median['ours, nothing kept']:.2f}   ours / bare:"
        f" {median['ours'] / median['bare']:.3f}"
    )


def name_of(device):
    """Name the GPU, or the number of threads on a CPU."""
    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_name()
    return f"{torch.get_num_threads()} threads"


if __name__ == "__main__":
    main()
