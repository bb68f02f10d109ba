"""The flags of diff_inference.py and sd_mitigation.py."""

from dataclasses import dataclass
from typing import ClassVar

from utils.cli.common_options import (
    COLUMNS,
    MODEL,
    RUNNING,
    SPEED,
    TRACKING,
    ColumnOptions,
    CommonOptions,
    ModelOptions,
    TrackingOptions,
)
from utils.cli.flags import default_of, flag, switch
from utils.cli.kinds import (
    ANY_TEXT,
    MOST_AT_ONCE,
    MOST_PIXELS,
    MOST_PROMPTS,
    MOST_TOKENS,
    NAME,
    NAMES,
    PATH,
    SEED,
    count,
    number_or,
    one_of,
    real,
    some_of,
)
from utils.data.caption_edits import PROMPT_EDITS
from utils.data.prompt_styles import PROMPT_STYLES
from utils.files.run_folder import BEST
from utils.generation.detectors import DETECTORS
from utils.models.scheduler_names import DENOISING, FLOW_MATCHING
from utils.reports.tracking import TRACKERS
from utils.runtime.errors import UsageError

# titles of --help
PROMPTS = "prompts"
SAMPLING = "sampling"
MITIGATIONS = "mitigations"
DETECTION = "detection"
SAVING = "what is saved"


@dataclass(frozen=True, kw_only=True)
class GenerationOptions(CommonOptions, ColumnOptions, TrackingOptions, ModelOptions):
    """Flags of diff_inference.py."""

    script: ClassVar[str] = "diff_inference.py"
    default_model: ClassVar[str] = "stabilityai/stable-diffusion-2-1"
    # whether the script has prompts of its own, for when no flag names any
    has_own_prompts: ClassVar[bool] = False
    groups: ClassVar[tuple[str, ...]] = (
        MODEL,
        PROMPTS,
        COLUMNS,
        SAMPLING,
        MITIGATIONS,
        DETECTION,
        SPEED,
        SAVING,
        TRACKING,
        RUNNING,
    )
    example: ClassVar[str] = "--modelpath run -nb 100 --rand_noise_lam 0.1"

    modelpath: str | None = flag(
        None,
        kind=PATH,
        group=MODEL,
        help=(
            "model: the folder of a run of diff_train.py, a LoRA checkpoint of one, any pipeline"
            " folder, or one file of weights (.safetensors)"
        ),
    )
    pretrained_model_name_or_path: str | None = flag(
        None,
        kind=PATH,
        group=MODEL,
        help=(
            "base model, instead of --modelpath, or beside it of a LoRA checkpoint: a pipeline"
            " folder, a name on the hub, or one file of weights"
        ),
        unset="Stable Diffusion 2.1, for sd_mitigation.py 1.4",
    )
    dataset: str | None = flag(
        None, group=RUNNING, help="label of the data, written to the manifest only"
    )
    capstyle: str | None = flag(
        None,
        "--modelstyle",
        kind=one_of(PROMPT_STYLES),
        group=PROMPTS,
        help="style of the prompts that are drawn, as --class_prompt in training",
        unset="the run's",
    )
    captoken: str | None = flag(None, group=RUNNING, help="published flag without effect")
    nbatches: int | None = flag(
        None,
        "-nb",
        kind=count(1, MOST_PROMPTS),
        group=PROMPTS,
        help="number of prompts; of a model that reads none (a DDPM), number of images",
        unset="all given prompts",
    )
    im_batch: int = flag(
        1, "-imb", kind=count(1, MOST_PROMPTS), group=PROMPTS, help="number of images per prompt"
    )
    prompts: str | None = flag(
        None,
        kind=PATH,
        group=PROMPTS,
        help="file of prompts: .txt, .jsonl with `prompt`, .json list, or a captions file",
    )
    prompt: tuple[str, ...] = flag(
        (), repeat=True, group=PROMPTS, help="a prompt; the flag may be repeated"
    )
    classes: tuple[str, ...] = flag(
        (),
        kind=NAMES,
        group=PROMPTS,
        help=(
            "classes of a model that is conditioned on them (a DDPM), by name or number, separated"
            " by commas; images take them in turn"
        ),
        unset="all",
    )
    instance_prompt_loc: str | None = flag(
        None,
        kind=PATH,
        group=PROMPTS,
        help="captions file from which --capstyle draws prompts",
        unset="the run's",
    )
    negative_prompt: str | None = flag(
        None,
        kind=ANY_TEXT,
        group=SAMPLING,
        help="negative prompt: text that guidance leads away from",
        unset="the pipeline's own",
    )
    resolution: int | None = flag(
        None,
        kind=count(8, MOST_PIXELS),
        group=SAMPLING,
        help="side of the images in pixels",
        unset="the run's, otherwise 256; of a DDPM the model's own",
    )
    iternum: int | None = flag(
        None,
        kind=count(0),
        group=MODEL,
        help="number of the run's checkpoint to use: checkpoint_N",
        unset="the final one",
    )
    checkpoint: str | None = flag(
        None,
        kind=one_of((BEST,)),
        group=MODEL,
        help=(
            "checkpoint of the run by name; best: the last one that copied little, which"
            " diff_train.py --stop_at_copy_share keeps"
        ),
        unset="the final one",
    )
    num_inference_steps: int | None = flag(
        None,
        kind=count(1),
        group=SAMPLING,
        help="number of denoising steps",
        unset="50, for SD 3 and Flux the pipeline's own",
    )
    guidance_scale: float | None = flag(
        None,
        kind=real(0),
        group=SAMPLING,
        help="scale of classifier-free guidance; 1 or less turns guidance off",
        unset="7.5, for SD 3 and Flux the pipeline's own, for a DDPM 1",
    )
    max_sequence_length: int | None = flag(
        None,
        kind=count(1, MOST_TOKENS),
        group=SAMPLING,
        help="number of tokens of a prompt that T5 reads, for SD 3 and Flux",
        unset="as the run was trained or the model's folder records, otherwise 256 for SD 3 and 512"
        " for Flux",
    )
    scheduler: str | None = flag(
        None,
        group=SAMPLING,
        help=(
            "scheduler: a class of diffusers, without the word Scheduler; for SD 1, 2 and XL one"
            f" of: {', '.join(DENOISING)}; for SD 3 and Flux {', '.join(FLOW_MATCHING)}"
        ),
        unset="the pipeline's own, for a base model DPMSolverMultistep, for a DDPM DDIM",
    )
    eta: float = flag(
        0.0,
        kind=real(0, 1),
        group=SAMPLING,
        help="share of random noise in the steps of DDIM; 0: none, 1: as much as DDPM's",
    )
    rand_noise_lam: float = flag(
        0.0,
        kind=real(0, 1),
        group=MITIGATIONS,
        help="standard deviation of Gaussian noise on prompt embeddings; 0 adds none",
    )
    rand_augs: str | None = flag(
        None,
        kind=one_of(PROMPT_EDITS),
        group=MITIGATIONS,
        help="edit of every prompt: random words, repeated words or numbers are added",
    )
    rand_aug_repeats: int = flag(
        2,
        kind=count(1, 1000),
        group=MITIGATIONS,
        help="number of times --rand_augs applies to a prompt",
    )
    cfg_start: float | str | None = flag(
        None,
        kind=number_or("auto", low=0),
        group=MITIGATIONS,
        help=(
            "timestep at which guidance starts: above it the scale is --cfg_before; auto: a"
            " timestep per image"
        ),
    )
    cfg_before: float | None = flag(
        None,
        kind=real(),
        group=MITIGATIONS,
        help=(
            "guidance scale while the timestep is above --cfg_start; 0: the prompt is not used, 1:"
            " it is used without guidance, -2: opposite guidance"
        ),
        unset="0; with --cfg_start auto 1",
    )
    detect: tuple[str, ...] = flag(
        (),
        kind=some_of(DETECTORS),
        group=DETECTION,
        help="detectors that score each image while it is generated",
        unset="none",
    )
    detect_steps: int | None = flag(
        None,
        kind=count(1),
        group=DETECTION,
        help="number of evaluations of the network that --detect magnitude averages",
        unset="all",
    )
    lora: str | None = flag(
        None,
        kind=PATH,
        group=MODEL,
        help="LoRA weights: a .safetensors file, a folder that holds one, or a name on the hub",
    )
    seed: int = flag(
        42,
        kind=SEED,
        group=SAMPLING,
        help="seed of prompts, prompt edits, latents and embedding noise",
    )
    batch_size: int = flag(
        16,
        kind=count(1, MOST_AT_ONCE),
        group=SPEED,
        help="number of images generated at once; changes nothing but rounding",
    )
    compile: bool = switch(
        group=SPEED,
        help="compilation of the denoising network; changes nothing but rounding",
    )
    num_workers: int = flag(
        2,
        "-j",
        "--workers",
        kind=count(1, 1000),
        group=SPEED,
        help="number of threads that save images while others are generated",
    )
    report_to: str = flag(
        "none",
        kind=one_of(TRACKERS),
        group=TRACKING,
        help="tracker that receives numbers and images",
    )
    savepath: str | None = flag(
        None,
        kind=PATH,
        group=SAVING,
        help="folder of the generation",
        unset="<run>/inferences/<run_name>, or <run_name> in a folder of the script",
    )
    run_name: str | None = flag(
        None,
        kind=NAME,
        group=SAVING,
        help="name of the generation's folder and of the run in the tracker",
        unset="the mitigations' names and 8 digits of the settings",
        may_change_on_resume=True,
    )

    @property
    def compare(self) -> bool:
        """Whether the images are also generated without mitigation: a flag of sd_mitigation.py."""
        return False

    @property
    def names_prompts(self) -> bool:
        """Whether a flag gives the prompts themselves."""
        return bool(self.prompts or self.prompt)

    def check(self) -> None:
        self._check_mitigations()
        self._check_prompt_flags()
        self._check_captions()
        self._check_checkpoint()
        self._check_number_of_prompts()

    def _check_mitigations(self) -> None:
        if self.cfg_before is not None and self.cfg_start is None:
            raise UsageError(
                f"--cfg_before={self.cfg_before:g} is the guidance scale while the timestep is"
                " above --cfg_start; give --cfg_start too"
            )
        if self.detect_steps is not None and not self.detect:
            raise UsageError(
                f"--detect_steps={self.detect_steps} is the number of evaluations that --detect"
                " averages; give --detect too"
            )
        repeats = self.rand_aug_repeats
        if repeats != default_of(self, "rand_aug_repeats") and not self.rand_augs:
            raise UsageError(
                f"--rand_aug_repeats={repeats} is how often --rand_augs applies; give --rand_augs"
                " too"
            )

    def _check_prompt_flags(self) -> None:
        if self.prompts and self.prompt:
            raise UsageError(
                f"--prompts={self.prompts!r} and --prompt={self.prompt[0]!r} both give prompts;"
                " give one of these flags"
            )
        if self.capstyle and self.names_prompts:
            raise UsageError(
                f"--capstyle={self.capstyle!r} draws prompts and --prompts or --prompt gives them;"
                " give one of these flags"
            )

    def _check_captions(self) -> None:
        fixed_prompts = self.names_prompts or self.has_own_prompts
        if self.instance_prompt_loc and not self.capstyle and fixed_prompts:
            raise UsageError(
                f"--instance_prompt_loc={self.instance_prompt_loc!r} is drawn from with --capstyle;"
                " to use its prompts in order, give the file to --prompts"
            )
        if not (self.prompts or self.instance_prompt_loc or self.capstyle):
            for name, value in self.columns.named():
                raise UsageError(
                    f"{name}={value!r} names a column of a captions file; give the file with"
                    " --prompts, or with --capstyle and --instance_prompt_loc"
                )

    def _check_checkpoint(self) -> None:
        given = {"iternum": self.iternum, "checkpoint": self.checkpoint}
        named = [f"--{name}={value!r}" for name, value in given.items() if value is not None]
        if named and not self.modelpath:
            raise UsageError(
                f"{named[0]} names a checkpoint of a run; give the run with --modelpath"
            )
        if len(named) > 1:
            raise UsageError(f"{' and '.join(named)} both name a checkpoint; leave one of them out")

    def _check_number_of_prompts(self) -> None:
        if self.nbatches or self.names_prompts:
            return
        if not self.has_own_prompts:
            raise UsageError(
                "-nb/--nbatches is required without --prompts or --prompt; give a whole number, at"
                " least 1"
            )
        if self.capstyle:
            raise UsageError(
                f"--capstyle={self.capstyle!r} draws prompts; give their number with -nb"
            )


@dataclass(frozen=True, kw_only=True)
class MitigationOptions(GenerationOptions):
    """Flags of sd_mitigation.py."""

    script: ClassVar[str] = "sd_mitigation.py"
    default_model: ClassVar[str] = "CompVis/stable-diffusion-v1-4"
    has_own_prompts: ClassVar[bool] = True
    example: ClassVar[str] = "--cfg_start 500 --compare"

    rand_aug_repeats: int = flag(
        4,
        kind=count(1, 1000),
        group=MITIGATIONS,
        help="number of times --rand_augs applies to a prompt",
    )
    compare: bool = switch(
        group=MITIGATIONS,
        help=(
            "comparison: the same noise is also denoised without mitigation, and the first 48"
            " pairs are drawn side by side"
        ),
    )
