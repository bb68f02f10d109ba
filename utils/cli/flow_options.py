"""The flags of diff_train.py for models that learn flow matching or read by T5."""

from dataclasses import dataclass

from utils.cli.flags import Options, flag
from utils.cli.kinds import MOST_TOKENS, count, number_or, one_of, real
from utils.training.process.flow_names import MODE_SCALES, WEIGHTING_SCHEMES

FLOWS = "flow matching and T5 (SD 3, Flux)"  # title of --help


@dataclass(frozen=True, kw_only=True)
class FlowOptions(Options):
    """Flags of flow matching and T5."""

    weighting_scheme: str | None = flag(
        None,
        kind=one_of(WEIGHTING_SCHEMES),
        group=FLOWS,
        help=(
            "times of flow matching: logit_normal and mode draw them unevenly, sigma_sqrt and"
            " cosmap weigh their losses"
        ),
        unset="as published: logit_normal for SD 3, none for Flux",
    )
    logit_mean: float | None = flag(
        None,
        kind=real(),
        group=FLOWS,
        help="mean of --weighting_scheme logit_normal; above 0 draws less noise",
        unset="0",
    )
    logit_std: float | None = flag(
        None,
        kind=real(above=0),
        group=FLOWS,
        help="standard deviation of --weighting_scheme logit_normal",
        unset="1",
    )
    mode_scale: float | None = flag(
        None,
        kind=real(*MODE_SCALES),
        group=FLOWS,
        help="scale of --weighting_scheme mode; 0 draws evenly",
        unset="1.29",
    )
    timestep_shift: float | str | None = flag(
        None,
        kind=number_or("auto", "none", above=0),
        group=FLOWS,
        help=(
            "shift of the drawn times to more noise, by this factor; auto: as the model samples"
            " images of this size"
        ),
        unset="auto",
    )
    max_sequence_length: int | None = flag(
        None,
        kind=count(1, MOST_TOKENS),
        group=FLOWS,
        help="number of tokens of a caption that T5 reads, in training and of the run's images",
        unset="as the model's folder records, otherwise 256 for SD 3 and 512 for Flux",
    )
    guidance_scale: float | None = flag(
        None,
        kind=real(0),
        group=FLOWS,
        help="guidance scale with which a guidance-distilled network is trained (Flux.1-dev)",
        unset="1",
    )
