"""Class images of prior preservation (Ruiz et al. 2023): the pictures of --class_data_dir, to which
the base model adds its own until there are enough.

Pictures that lie in the folder are used as they are. What the base model adds is a generation
(manifest.json, generations/<number>.png): image i depends on the base model, the prompt and i
alone, so a killed run continues and runs with other seeds share the folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils.data import image_sets
from utils.files import folder_kinds, weight_files, whole_files
from utils.files.generation_folder import DEGENERATE, Generation
from utils.generation import degenerate
from utils.generation.generation_plan import GenerationPlan, ImagesPlan, PipelinePlan
from utils.generation.generation_stage import Generator
from utils.generation.model_source import ModelSource
from utils.generation.sampling import Prompt, SampleSettings
from utils.models import families, loading, schedulers
from utils.reports.progress import progress
from utils.runtime import seeding
from utils.runtime.errors import DataError, UsageError

if TYPE_CHECKING:
    from utils.data.image_sets import ImageSet
    from utils.models.pipeline_files import Configs, FileChoice
    from utils.runtime.parallel import Processes

FLAG = "--class_data_dir"
OURS = "class_data_prompt"  # the setting by which a generation of class images is known


@dataclass(frozen=True)
class ClassRequest:
    """The class images that a run asks for."""

    folder: str  # --class_data_dir
    prompt: str  # --class_data_prompt
    count: int  # --num_class_images
    side: int  # pixels of the images that the base model adds


@dataclass(frozen=True)
class Base:
    """The base model, which generates class images."""

    source: str  # a folder, a hub name or a file
    choice: FileChoice
    name: str  # class of the pipeline, a key of families.FAMILIES
    configs: Configs
    mixed_precision: str  # "no", "fp16" or "bf16"

    @property
    def identity(self) -> str | None:
        """What tells it from other models: a hash of its files, else its name on the hub."""
        model = ModelSource("--pretrained_model_name_or_path", self.source)
        if not Path(self.source).is_dir():
            return model.identity
        files = loading.network_files(
            model.flag, Path(self.source), self.configs.index, self.choice.variant
        )
        return weight_files.fingerprint([path for each in files.values() for path in each.paths])


@dataclass(frozen=True)
class ClassPlan:
    """Which class images exist, and which the base model adds."""

    request: ClassRequest
    own: int  # pictures in the folder that no such plan generated
    generation: GenerationPlan | None  # what the base model adds; None where nothing is missing

    @property
    def added(self) -> int:
        """Number of the images that the base model has to generate, with those that it has."""
        return 0 if self.generation is None else self.generation.images.total

    def planned(self) -> list[str]:
        """Paths that will be written, for --dry_run."""
        if self.generation is None:
            return []
        return [path for path in self.generation.folder.planned() if "--report_to" not in path]


def _generated_before(folder: str | Path) -> bool:
    """Whether a folder holds a generation of class images, finished or not."""
    place = Generation(folder)
    if place.manifest_path.is_file():
        recorded = whole_files.read_manifest(place.manifest_path, "generation").get("settings")
    else:
        recorded = place.unfinished_settings()
    return OURS in (recorded or {})


def _listed(folder: str | Path) -> ImageSet | None:
    """All images below the folder, or None where there are none yet."""
    if not Path(folder).is_dir():
        return None
    folder_kinds.require_pictures(FLAG, folder)
    from utils.data import folder_walk

    return image_sets.list_images(FLAG, folder) if folder_walk.holds_images(folder) else None


def _own(folder: str | Path, images: ImageSet | None) -> list[int]:
    """Numbers of the images that were not generated as class images."""
    if images is None:
        return []
    if not _generated_before(folder):
        return list(range(len(images)))
    return [i for i, key in enumerate(images.keys) if not key.startswith("generations/")]


def _settings(request: ClassRequest, base: Base, sample: SampleSettings, scheduler: str) -> dict:
    """What decides the generated class images, by flag; a folder with others is refused."""
    return {
        OURS: request.prompt,
        "pretrained_model_name_or_path": base.identity,
        **ModelSource(FLAG, base.source, choice=base.choice).chosen,
        "revision": base.choice.revision,
        "resolution": request.side,
        "mixed_precision": base.mixed_precision,
        "num_inference_steps": sample.steps,
        "guidance_scale": sample.guidance,
        "scheduler": scheduler,
    }


def _generation(
    request: ClassRequest, base: Base, missing: int, *, batch: int, threads: int, process: int
) -> GenerationPlan | None:
    """The generation of `missing` class images; None where its folder holds them."""
    steps, guidance = families.default_sampling(base.name)
    sample = SampleSettings(steps=steps, guidance=guidance)
    scheduler = schedulers.plan_scheduler(base.name, None, base.configs, steps).name
    # rendered at the model's own size and then reduced
    model = ModelSource(
        "--pretrained_model_name_or_path", base.source, native=True, choice=base.choice
    )
    settings = _settings(request, base, sample, scheduler)
    folder = Generation(request.folder, process=process, flags=(FLAG,))
    rows = folder.rows(settings)
    if len(rows) >= missing and folder.manifest_path.is_file():
        return None
    return GenerationPlan(
        pipeline=PipelinePlan(model, base.name, scheduler, base.mixed_precision),
        images=ImagesPlan(
            prompts=[Prompt(request.prompt)],
            per_prompt=max(missing, len(rows)),
            seed=seeding.derive_seed(0, "class-images") % 2**53,  # exact in any JSON reader
            side=request.side,
            sample=sample,
        ),
        settings=settings,
        folder=folder,
        batch_size=batch,
        save_threads=threads,
    )


def plan(
    request: ClassRequest, base: Base, *, batch: int, threads: int, process: int = 0
) -> ClassPlan:
    """What is there and what is missing; nothing is loaded or written.

    batch: images that are generated at once; threads: that save them; process: number of this one.
    UsageError for a folder that holds class images of another prompt or model, or a generation that
    is no class images and too small."""
    images = _listed(request.folder)
    own = len(_own(request.folder, images))
    if own >= request.count:
        return ClassPlan(request, own, None)
    if folder_kinds.kind_of(request.folder) == folder_kinds.GENERATION and not _generated_before(
        request.folder
    ):
        raise UsageError(
            f"{FLAG}={request.folder!r} is a generation of {own} images, and"
            f" --num_class_images={request.count}; use at most {own}, or another folder"
        )
    missing = request.count - own
    generation = _generation(request, base, missing, batch=batch, threads=threads, process=process)
    return ClassPlan(request, own, generation)


def complete(wanted: ClassPlan, processes: Processes) -> None:
    """Generate the class images that are missing, a share in each process. Every process calls
    this. DataError if one of them is not finite."""
    if wanted.generation is not None:
        processes.say(
            f"{FLAG}={wanted.request.folder!r}: the base model adds {wanted.added} images of"
            f" {wanted.request.prompt!r}"
        )
        Generator(processes, progress=progress).complete(wanted.generation)
        processes.wait()  # the main process has written the manifest
    require_finite(wanted.request.folder)


def require_finite(folder: str | Path) -> None:
    """Raise DataError if a generated class image was not finite before it became pixels."""
    path = Generation(folder).manifest_path
    if not path.is_file():
        return
    rows = whole_files.read_manifest(path, "generation").get("images", [])
    broken = [row["file"] for row in rows if row.get(DEGENERATE) == degenerate.NOT_FINITE]
    if broken:
        raise DataError(
            f"{path.parent}: {len(broken)} of {len(rows)} class images are not finite, the first"
            f" {broken[0]!r}; use another {FLAG} with --mixed_precision bf16 or no, or other"
            " weights"
        )


def class_set(request: ClassRequest, *, max_bad: float, workers: int) -> ImageSet:
    """The class images of a run: those of the folder that nobody generated as such, in natural
    order, then the generated ones by number; the first --num_class_images of them that can be read.

    max_bad: share of images that may be unreadable; workers: threads that read them."""
    images = image_sets.list_images(FLAG, request.folder)
    own = _own(request.folder, images)
    generated = sorted(set(range(len(images))) - set(own))  # in natural order of their numbers
    chosen = images.take([*own, *generated][: request.count])
    return image_sets.readable(FLAG, chosen, max_bad=max_bad, workers=workers)


def require_apart(folder: str, others: Sequence[tuple[str, str]]) -> None:
    """Raise UsageError if the folder of class images lies in another folder of the run, or holds
    it: class images would be taken for training images, or for files of the run.

    others: (flag, path)."""
    place = Path(folder).resolve()
    for flag, path in others:
        other = Path(path).resolve()
        if place == other or place in other.parents or other in place.parents:
            raise UsageError(
                f"{FLAG}={folder!r} and {flag}={path!r} lie one in the other; use a folder beside"
                " it"
            )


def record_of(request: ClassRequest, images: ImageSet) -> dict[str, Any]:
    """What run.json says of the class images."""
    return {
        "prompt": request.prompt,
        "images": len(images),
        "generated": sum(key.startswith("generations/") for key in images.keys)
        if _generated_before(request.folder)
        else 0,
        "fingerprint": images.fingerprint,
        "content": images.content_fingerprint,
        "bad": list(images.bad),
    }
