"""The generation stage of diff_inference.py and sd_mitigation.py: from the options to a finished
generation folder."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from utils.cli import flags
from utils.data.caption_edits import RandomTokens
from utils.data.encoder_window import too_long
from utils.generation import degenerate, mitigations, sampling
from utils.generation.generation_plan import GenerationPlan, PipelinePlan, plans_of
from utils.generation.mitigations import SampleHooks
from utils.generation.pair_grid import compare
from utils.generation.sampling import GeneratedImage
from utils.models import families, fingerprints, loading, lora, networks, schedulers
from utils.reports import tracking
from utils.runtime import devices, environment, launcher_settings, launching, parallel
from utils.runtime.errors import Stopped

if TYPE_CHECKING:
    from PIL.Image import Image

    from utils.cli.generation_options import GenerationOptions

SHOWN = 8  # images sent to a tracker

T = TypeVar("T")


def load(plan: GenerationPlan, device: families.Device, say: Callable[[str], None]) -> Any:
    """Load the pipeline of a plan onto a device, with its scheduler and its LoRA weights. say:
    prints a line."""
    wanted = plan.pipeline
    pipeline = loading.load_pipeline(
        wanted.model.flag,
        wanted.model.source,
        dtype=devices.dtype_of(wanted.mixed_precision),
        choice=wanted.model.choice,
        say=say,
    )
    schedulers.use_scheduler(pipeline, wanted.scheduler)
    if wanted.model.adapter is not None:
        given, adapter = str(wanted.model.modelpath), wanted.model.adapter
        base = dataclasses.replace(adapter.base, source=wanted.model.source)
        lora.require_base("--modelpath", given, base, pipeline, say)
        lora.load_lora(pipeline, str(adapter.weights), say, flag="--modelpath")
    if wanted.lora:
        lora.load_lora(pipeline, wanted.lora, say)
    pipeline.to(device)
    if wanted.compiled:
        sampling.compile_denoiser(pipeline)
    return pipeline


def reduced(image: Image, side: int) -> Image:
    """The image, reduced by Lanczos to `side` pixels if it is larger."""
    from PIL import Image as images

    if max(image.size) <= side:
        return image
    return image.resize((side, side), images.Resampling.LANCZOS)


def _share(items: Sequence[T], processes: parallel.Processes) -> Sequence[T]:
    """The consecutive items that are this process's share; shares differ by at most one item."""
    first = len(items) * processes.index // processes.count
    last = len(items) * (processes.index + 1) // processes.count
    return items[first:last]


def _say_what_is_cut(
    plan: GenerationPlan, pipeline: Any, hooks: SampleHooks, say: Callable[[str], None]
) -> int:
    """Print how many prompts are longer than the model accepts. Returns: their number."""
    prompts, seed = plan.images.prompts, plan.images.seed
    edited = (
        sampling.edited_prompt(prompts, hooks, number, seed=seed) for number in range(len(prompts))
    )
    window = sampling.window_of(pipeline, plan.images.sample.text_length)
    cut = too_long(window, edited)
    if cut:
        say(
            f"{len(cut)} prompts are longer than the {window.limit} tokens that the model accepts;"
            f" the rest of each has no effect. The first: {cut[0][:80]!r}"
        )
    return len(cut)


def _begin(plan: GenerationPlan, rows: list[dict], processes: parallel.Processes) -> None:
    """Write the settings into every process's part; the main process copies the rows of finished
    images into its own first."""
    if processes.main:
        plan.folder.begin(plan.settings, rows)
    processes.wait()
    if not processes.main:
        plan.folder.begin(plan.settings)


def _images(
    plan: GenerationPlan, indices: Sequence[int], pipeline: Any, hooks: SampleHooks
) -> Iterator[GeneratedImage]:
    """Generate the images with these numbers, in the size of the plan."""
    wanted = plan.images
    jobs = sampling.image_jobs(
        wanted.prompts,
        hooks,
        images_per_prompt=wanted.per_prompt,
        seed=wanted.seed,
        indices=indices,
    )
    generated = sampling.generate(
        pipeline,
        jobs,
        settings=wanted.sample,
        hooks=hooks,
        batch_size=plan.batch_size,
        device=pipeline.device,
    )
    for each in generated:
        if plan.pipeline.model.native:
            yield dataclasses.replace(each, image=reduced(each.image, wanted.side))
        else:
            yield each


def _label(count: int) -> str:
    return "generating" if count == 1 else f"generating, process 1 of {count}"


def _tokens(plan: GenerationPlan, pipeline: Any) -> RandomTokens:
    """The source of random words for edits of prompts."""
    window = sampling.window_of(pipeline, plan.images.sample.text_length)
    return RandomTokens(families.tokenizer_of(pipeline), window)


def make(
    plan: GenerationPlan,
    rows: list[dict],
    pipeline: Any,
    *,
    processes: parallel.Processes,
    progress: Callable[..., Iterable],
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Generate the images that a folder lacks, a share in each process, and finish the folder.

    rows: manifest rows of the images that exist, the same on every process.
    progress: shows a bar over an iterable.
    say: prints a line for the user, on the main process.
    Returns: figures for the record and the tracker, {name: number}.
    """
    reads = families.family_of(pipeline).text
    tokens = _tokens(plan, pipeline) if reads else None
    hooks = SampleHooks(plan.images.mitigations, tokens, plan.images.detectors)
    cut = _say_what_is_cut(plan, pipeline, hooks, say) if processes.main and reads else None
    missing = sorted(set(range(plan.images.total)) - {row["index"] for row in rows})
    _begin(plan, rows, processes)
    share = _share(missing, processes)
    started = time.perf_counter()
    _save(plan, len(share), _images(plan, share, pipeline, hooks), processes, progress)
    processes.wait()
    figures: dict[str, Any] = {
        "images_new": len(missing),
        "images_per_second": len(missing) / (time.perf_counter() - started),
    }
    if processes.main:
        figures |= {"prompts_cut": cut} if reads else {}
        rows = _finish(plan, pipeline, figures, processes)
        lines = (degenerate.summary(rows), *mitigations.summaries(plan.images.mitigations, rows))
        for line in filter(None, lines):
            say(line)
    return figures


def _save(
    plan: GenerationPlan,
    count: int,
    images: Iterable[GeneratedImage],
    processes: parallel.Processes,
    progress: Callable[..., Iterable],
) -> None:
    """Generate and save the images of this process. count: number of them; progress: as `make`."""
    saved: Iterable[dict[str, Any]] = plan.folder.save(
        images, threads=plan.save_threads, waiting=4 * plan.batch_size
    )
    saved = degenerate.stopping(saved, precision=plan.pipeline.mixed_precision)
    if processes.main:
        saved = progress(saved, total=count, label=_label(processes.count))
    collections.deque(saved, maxlen=0)  # run to the end


def _finish(
    plan: GenerationPlan, pipeline: Any, figures: dict, processes: parallel.Processes
) -> list[dict]:
    """Write the manifest. Returns: its rows. DataError, and nothing is written, if most images
    show nothing."""
    model, folder = plan.pipeline.model, plan.folder
    made = folder.complete_rows(plan.images.total)
    degenerate.require_pictures(made, precision=plan.pipeline.mixed_precision)
    run = os.path.relpath(model.run.path.resolve(), folder.path.resolve()) if model.run else None
    return folder.finish(
        plan.images.total,
        settings=plan.settings,
        label=plan.label,
        batch_size=plan.batch_size,
        processes=processes.count,
        dtype=str(pipeline.dtype),
        pipeline=plan.pipeline.class_name,
        **({} if plan.images.classes is None else {"classes": plan.images.classes.names}),
        scheduler=type(pipeline.scheduler).__name__,
        safety_checker="never loaded",
        **figures,
        degenerate=degenerate.counts_of(made),
        environment=environment.environment(),
        model={
            "modelpath": model.modelpath,
            "source": model.source,
            **({"adapter": str(model.adapter.path)} if model.adapter else {}),
            **{flag: value for flag, value in vars(model.choice).items() if value is not None},
            "fingerprints": fingerprints.of_networks(networks.of_pipeline(pipeline)),
        },
        prompts=plan.prompts_file,
        run=run,
        seed=plan.images.seed,
    )


def _track(opts: GenerationOptions, plan: GenerationPlan, figures: dict) -> str | None:
    """Send a finished generation to the tracker that was asked for: its figures, its first images
    and the grid of pairs. Returns: a line about where they are, or None."""
    tracker = tracking.open_tracker(
        opts.report_to,
        folder=plan.folder.path,
        project=tracking.project_name(opts.wandb_project, "diffrep_inference"),
        name=opts.run_name or plan.folder.path.name,
        config=plan.settings,
    )
    tracker.log(figures, 0)
    for index in range(min(SHOWN, plan.images.total)):
        tracker.image(f"generations/{index}", plan.folder.path / plan.folder.image_key(index), 0)
    if opts.compare:
        tracker.image("pairs", plan.folder.path / "compare.png", 0)
    tracker.finish()
    return tracker.hint


def _dry_run(plans: list[GenerationPlan], *, compared: bool) -> dict[str, Any]:
    """What --dry_run prints, of JSON types."""
    writes = [path for each in plans for path in each.folder.planned()]
    if compared:
        writes.append(str(plans[-1].folder.path / "compare.png"))
    total = sum(each.images.total for each in plans)
    last = plans[-1]
    found: dict[str, Any] = {"model": last.pipeline.model.source}
    if families.FAMILIES[last.pipeline.class_name].text:
        prompts = [prompt.text for prompt in last.images.prompts]
        found |= {
            "prompts": len(prompts),
            "distinct_prompts": len(set(prompts)),
            "images_per_prompt": last.images.per_prompt,
        }
    elif last.images.classes is not None:
        labels = {prompt.label for prompt in last.images.prompts}
        names = enumerate(last.images.classes.names)
        found["classes"] = [name for label, name in names if label in labels]
    return {"options": last.settings, "images": total, "recognised": found, "writes": writes}


def _report(
    opts: GenerationOptions, plans: list[GenerationPlan], figures: dict, say: Callable[[str], None]
) -> None:
    """Write the grid of --compare and send the last generation to the tracker."""
    if opts.compare:
        folders = _folders_of_sources(opts, plans[-1])
        say(f"pairs: {compare(plans[0].folder, plans[1].folder, folders=folders)}")
    hint = _track(opts, plans[-1], figures)
    if hint:
        say(hint)


def _folders_of_sources(opts: GenerationOptions, plan: GenerationPlan) -> list[Path | None]:
    """Where the training pictures of the prompts may lie: in the data folder of the run, beside the
    file of prompts, or beside the captions file."""
    run = plan.pipeline.model.run
    files = [Path(file).parent for file in (opts.prompts, opts.instance_prompt_loc) if file]
    return [None if run is None else run.located("instance_data_dir"), *files]


class Generator:
    """Generates folders one after the other. A pipeline is loaded when a folder needs it, and kept
    for the next folders until one needs another.

    processes: that share the work; progress: shows a bar over an iterable."""

    def __init__(self, processes: parallel.Processes, *, progress: Callable[..., Iterable]) -> None:
        self.processes, self.progress = processes, progress
        self.pipeline: Any = None
        self.loaded: PipelinePlan | None = None

    def complete(self, plan: GenerationPlan) -> dict[str, Any]:
        """Generate a folder, continue it, or leave it if it is finished. UsageError if another
        command is writing it; Stopped on Ctrl-C. Returns: figures, {name: number}."""
        processes, folder = self.processes, plan.folder
        figures = {"images": plan.images.total, "images_new": 0}
        lock = folder.locked() if processes.main else contextlib.nullcontext(True)
        try:
            with lock as locked:
                folder.require_unshared(not processes.any(not locked))
                rows = folder.rows(plan.settings)
                finished = len(rows) == plan.images.total and folder.manifest_path.is_file()
                processes.wait()  # every process has read the folder before one of them writes
                if not finished:
                    figures |= self._generate(plan, rows)
        except KeyboardInterrupt:
            raise Stopped(
                f"stopped; run the same command again to continue {folder.path}", 2
            ) from None
        processes.say(f"{figures['images']} images ({figures['images_new']} new) in {folder.path}")
        return figures

    def _generate(self, plan: GenerationPlan, rows: list[dict]) -> dict[str, Any]:
        if self.loaded != plan.pipeline:
            self.pipeline = None  # two may not fit into memory
            self.pipeline = load(plan, self.processes.device, self.processes.say)
            self.loaded = plan.pipeline
        return make(
            plan,
            rows,
            self.pipeline,
            processes=self.processes,
            progress=self.progress,
            say=self.processes.say,
        )


def generate_folders(
    opts: GenerationOptions,
    *,
    default_prompts: tuple[str, ...] = (),
    default_root: Path,
    beside_run: bool,
    progress: Callable[..., Iterable],
) -> None:
    """Generate the folder that the options ask for, continue it, or leave it if it is finished;
    with --compare two folders and the grid of their pairs; with --dry_run only print the plan.

    default_prompts: prompts of the script, used if the options name none.
    default_root: where the folder is created unless --savepath names one.
    beside_run: whether the generation of a run is written into the run's folder instead.
    progress: shows a bar over an iterable.
    """
    processes = launching.sharing()
    processes.planning = opts.dry_run
    for line in launcher_settings.notes(flags.launched(opts)):
        processes.say(line)
    if opts.captoken is not None:
        processes.say(f"--captoken={opts.captoken!r} has no effect, as in the published script")
    plans = plans_of(
        opts,
        process=processes.index,
        say=processes.say,
        default_prompts=default_prompts,
        default_root=default_root,
        beside_run=beside_run,
    )
    for each in plans:
        each.folder.rows(each.settings)  # refuse a folder before hours go into the first one
    if opts.dry_run:
        processes.show(_dry_run(plans, compared=opts.compare))
        return
    generator = Generator(processes, progress=progress)
    figures = [generator.complete(each) for each in plans]
    if processes.main:
        _report(opts, plans, figures[-1], processes.say)
