"""The flags of the memorization card, which diff_retrieval.py --modelpath writes."""

from collections.abc import Iterable
from dataclasses import dataclass

from utils.cli.flags import Options, flag, given, switch
from utils.cli.kinds import MOST_PIXELS, MOST_PROMPTS, NAME, PATH, count, one_of, real
from utils.files.run_folder import BEST
from utils.runtime.errors import UsageError

CARD = "memorization card"  # title of --help
# flags that mean nothing without --modelpath
OF_CARDS = (
    "prompts",
    "base_model",
    "checkpoint",
    "variant",
    "config",
    "unet",
    "budget",
    "max_copy_share",
    "gate",
    "im_batch",
    "resolution",
    "num_inference_steps",
    "guidance_scale",
    "scheduler",
)
# flags of diff_retrieval.py that a card sets itself, or that ask for something else
NOT_OF_CARDS = (
    "query_dir",
    "build_index",
    "ann",
    "dedup",
    "compare_runs",
    "force",
    "run",
    "sim_save_path",
    "world_size",
    "rank",
    "multiprocessing_distributed",
)


@dataclass(frozen=True, kw_only=True)
class CardOptions(Options):
    """Flags of a memorization card."""

    modelpath: str | None = flag(
        None,
        kind=PATH,
        group=CARD,
        help=(
            "model to write a memorization card of, instead of an evaluation: a run of"
            " diff_train.py, a pipeline (folder or name on the hub), or LoRA weights"
        ),
    )
    prompts: str | None = flag(
        None,
        kind=PATH,
        group=CARD,
        help="file of the prompts, as diff_inference.py --prompts; a captions file names pictures",
        unset="captions of up to 64 training images, drawn evenly over duplicated and others",
    )
    base_model: str | None = flag(
        None,
        kind=PATH,
        group=CARD,
        help="model that was fine-tuned, to compare with: a pipeline folder or a name on the hub",
        unset="the run's",
    )
    checkpoint: str | None = flag(
        None,
        kind=one_of((BEST,)),
        group=CARD,
        help=(
            "checkpoint of the run that the card is of; best: the last one that copied little,"
            " which diff_train.py --stop_at_copy_share keeps"
        ),
        unset="the final one",
    )
    variant: str | None = flag(
        None,
        kind=NAME,
        group=CARD,
        help="variant of the model's weights, as in model.fp16.safetensors",
        unset="files without a variant, or the only one that is there",
    )
    config: str | None = flag(
        None,
        kind=PATH,
        group=CARD,
        help="configuration of a model in one file: a pipeline folder or a name on the hub",
        unset="as diffusers finds it on the hub",
    )
    unet: str | None = flag(
        None,
        kind=PATH,
        group=CARD,
        help=(
            "network in the place of the model's U-Net or transformer: its folder; the model"
            " without it is the base model"
        ),
        unset="the model's own",
    )
    budget: float | None = flag(
        None,
        kind=real(above=0),
        group=CARD,
        help="minutes that the card may take; prompts and images are reduced evenly to fit",
        unset="no limit",
    )
    max_copy_share: float = flag(
        0.02, kind=real(0, 1), group=CARD, help="share of copies that is acceptable"
    )
    gate: bool = switch(
        group=CARD,
        help="exit status 3 if the share of copies is surely above --max_copy_share",
    )
    im_batch: int = flag(
        4, "-imb", kind=count(1, MOST_PROMPTS), group=CARD, help="number of images per prompt"
    )
    resolution: int | None = flag(
        None,
        kind=count(8, MOST_PIXELS),
        group=CARD,
        help="side of the generated images in pixels",
        unset="the run's, otherwise 256",
    )
    num_inference_steps: int | None = flag(
        None,
        kind=count(1),
        group=CARD,
        help="number of denoising steps",
        unset="50, for SD 3 and Flux the pipeline's own",
    )
    guidance_scale: float | None = flag(
        None,
        kind=real(0),
        group=CARD,
        help="scale of classifier-free guidance",
        unset="7.5, for SD 3 and Flux the pipeline's own",
    )
    scheduler: str | None = flag(
        None,
        group=CARD,
        help="scheduler of the generation, as diff_inference.py --scheduler",
        unset="the pipeline's own",
    )

    def _refuse(self, names: Iterable[str], why: str) -> None:
        """Raise UsageError for the first of the flags whose value is not its default."""
        for name in given(self, names):
            value = getattr(self, name)
            shown = ",".join(value) if isinstance(value, tuple) else value
            raise UsageError(f"--{name} {why}" if value is True else f"--{name}={shown!r} {why}")

    def _check_card(self) -> None:
        """Raise UsageError for flags that do not go with --modelpath, or need it."""
        if self.modelpath:
            self._refuse(
                NOT_OF_CARDS,
                "does not go with --modelpath, which generates the images that it measures; leave"
                " one of them out",
            )
        else:
            self._refuse(OF_CARDS, "applies to a memorization card; give a model with --modelpath")
