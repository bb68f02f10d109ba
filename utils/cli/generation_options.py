"""The flags of diff_inference.py and sd_mitigation.py."""

from dataclasses import dataclass, fields
from typing import ClassVar

from utils.cli.common_options import CommonOptions, TrackingOptions
from utils.cli.flags import any_text, flag, number_or, one_of, real, switch, whole
from utils.data.caption_edits import PROMPT_EDITS
from utils.data.captions import PROMPT_STYLES
from utils.reports.tracking import TRACKERS
from utils.runtime.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class GenerationOptions(CommonOptions, TrackingOptions):
    """diff_inference.py"""

    script: ClassVar[str] = "diff_inference.py"
    default_model: ClassVar[str] = "stabilityai/stable-diffusion-2-1"
    compare: ClassVar[bool] = False

    modelpath: str = flag(None, help="a run of diff_train.py, or any pipeline folder")
    pretrained_model_name_or_path: str = flag(
        None, help="base model by name, when there is no --modelpath"
    )
    dataset: str = flag(None, help="a label, kept in the record")
    capstyle: str = flag(
        None, "--modelstyle", kind=one_of(PROMPT_STYLES), help="prompt style, instead of the run's"
    )
    captoken: str = flag(None, help="accepted as published, where it never had an effect")
    nbatches: int = flag(None, "-nb", kind=whole(1), help="number of prompts")
    im_batch: int = flag(1, "-imb", kind=whole(1), help="images per prompt")
    prompts: str = flag(
        None, help="file of prompts: .txt, .jsonl with `prompt`, .json list or captions file"
    )
    prompt: tuple = flag((), repeat=True, help="a prompt; may be repeated")
    instance_prompt_loc: str = flag(
        None, help="captions JSON to draw prompts from, for a folder without run.json"
    )
    negative_prompt: str = flag(
        None, kind=any_text, help="what guidance leads away from; else the pipeline's own"
    )
    resolution: int = flag(
        None, kind=whole(8), help="side of the images in pixels (else the run's, else 256)"
    )
    iternum: int = flag(
        None, kind=whole(0), help="use checkpoint_<iternum> of the run instead of the final one"
    )
    num_inference_steps: int = flag(
        None, kind=whole(1), help="denoising steps (50; SD 3 and Flux: their pipeline's own)"
    )
    guidance_scale: float = flag(
        None,
        kind=real(0),
        help="guidance; 1 or less is none (7.5; SD 3 and Flux: their pipeline's own)",
    )
    scheduler: str = flag(
        None,
        help=(
            "a diffusers scheduler, without the word Scheduler (the pipeline's own; base model:"
            " DPM++)"
        ),
    )
    rand_noise_lam: float = flag(
        0.0, kind=real(0, 1), help="Gaussian noise on prompt embeddings, standard deviation"
    )
    rand_augs: str = flag(
        None, kind=one_of(PROMPT_EDITS), help=f"edit of prompts: {', '.join(PROMPT_EDITS)}"
    )
    rand_aug_repeats: int = flag(2, kind=whole(1), help="how many times --rand_augs applies")
    cfg_start: str = flag(
        None,
        kind=number_or("auto", 0),
        help="timestep above which guidance has the scale --cfg_before; auto: per image",
    )
    cfg_before: float = flag(
        0.0, kind=real(), help="guidance scale before the transition: 0 is none, -2 opposite"
    )
    lora: str = flag(
        None, help="LoRA weights: a .safetensors file, a folder that holds one, or a hub name"
    )
    seed: int = flag(42, kind=whole(0), help="seed of prompts, edits, latents and embedding noise")
    batch_size: int = flag(
        16, kind=whole(1), help="images made at once; changes nothing but rounding"
    )
    compile: bool = switch(help="compile the network that predicts; changes nothing but rounding")
    num_workers: int = flag(
        2, "-j", "--workers", kind=whole(1), help="threads that save images while others are made"
    )
    report_to: str = flag("none", kind=one_of(TRACKERS), help="tracker")
    savepath: str = flag(None, help="the generation's folder, instead of <run>/inferences/<name>")

    def check(self):
        if self.cfg_before and self.cfg_start is None:
            raise UsageError(
                f"--cfg_before={self.cfg_before:g} is a scale before --cfg_start; give that too"
            )
        usual = next(f.default for f in fields(self) if f.name == "rand_aug_repeats")
        if self.rand_aug_repeats != usual and not self.rand_augs:
            raise UsageError(
                f"--rand_aug_repeats={self.rand_aug_repeats} is how often --rand_augs applies; give"
                " that too"
            )
        if self.modelpath and self.pretrained_model_name_or_path:
            raise UsageError(
                f"--modelpath={self.modelpath!r} and --pretrained_model_name_or_path="
                f"{self.pretrained_model_name_or_path!r} both name a model; give one"
            )
        if self.prompts and self.prompt:
            raise UsageError(
                f"--prompts={self.prompts!r} and --prompt={self.prompt[0]!r} both give prompts;"
                " give one"
            )
        if self.capstyle and (self.prompts or self.prompt):
            raise UsageError(
                f"--capstyle={self.capstyle!r} draws prompts and --prompts or --prompt gives them;"
                " use one"
            )
        if (
            self.instance_prompt_loc
            and not self.capstyle
            and (self.prompts or self.prompt or self.script == "sd_mitigation.py")
        ):
            raise UsageError(
                f"--instance_prompt_loc={self.instance_prompt_loc!r} is drawn from with --capstyle;"
                " for its prompts in order use --prompts"
            )
        if self.iternum is not None and not self.modelpath:
            raise UsageError(
                f"--iternum={self.iternum} names a checkpoint of a run; give the run with"
                " --modelpath"
            )
        if self.script == "diff_inference.py" and not (
            self.prompts or self.prompt or self.nbatches
        ):
            raise UsageError(
                "-nb/--nbatches is required without --prompts or --prompt; takes a whole number, at"
                " least 1"
            )
        if self.capstyle and not self.nbatches and not (self.prompts or self.prompt):
            raise UsageError(
                f"--capstyle={self.capstyle!r} draws prompts; give their number with -nb"
            )


@dataclass(frozen=True, kw_only=True)
class MitigationOptions(GenerationOptions):
    """sd_mitigation.py"""

    script: ClassVar[str] = "sd_mitigation.py"
    default_model: ClassVar[str] = "CompVis/stable-diffusion-v1-4"

    rand_aug_repeats: int = flag(4, kind=whole(1), help="how many times --rand_augs applies")
    compare: bool = switch(
        help=(
            "generate without the mitigation too, from the same noise; a grid of the first 48 pairs"
        )
    )
