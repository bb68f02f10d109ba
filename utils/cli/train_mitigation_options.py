"""The flags of diff_train.py that reduce copying while a model trains."""

from dataclasses import dataclass

from utils.cli.flags import flag, switch
from utils.cli.kinds import MOST_IMAGES, count, one_of, real
from utils.cli.training_data_options import TrainingDataOptions
from utils.data.caption_edits import TRAIN_EDITS
from utils.data.prompt_styles import PROMPT_STYLES
from utils.runtime.errors import UsageError

MOST_BINS = 1000  # as many as there are steps of a diffusion

# titles of --help
MITIGATIONS = "mitigations"
ENSEMBLE = "ensemble"


@dataclass(frozen=True, kw_only=True)
class TrainMitigationOptions(TrainingDataOptions):
    """Flags of the train-time mitigations, and of the ensemble."""

    trainspecial: str | None = flag(
        None,
        kind=one_of(TRAIN_EDITS),
        group=MITIGATIONS,
        help="caption edit at every draw of an image",
    )
    trainspecial_prob: float = flag(
        0.1,
        kind=real(0, 1),
        group=MITIGATIONS,
        help="probability that --trainspecial edits a caption; allcaps applies always",
    )
    rand_noise_lam: float = flag(
        0.0,
        kind=real(0, 1),
        group=MITIGATIONS,
        help="standard deviation of Gaussian noise on text embeddings; 0 adds none",
    )
    mixup_noise_lam: float = flag(
        0.0,
        kind=real(0),
        group=MITIGATIONS,
        help="mixup of text embeddings: parameter a of Beta(a, 1); 0 is off",
    )
    clients_num: int = flag(
        1,
        kind=count(1, MOST_IMAGES),
        group=ENSEMBLE,
        help="number of model copies, each trained on its own split of the images",
    )
    shards_by: str = flag(
        "random",
        kind=one_of(("random", "class")),
        group=ENSEMBLE,
        help="split of the images among copies; class: each split has its share of every class",
    )
    total_round: int = flag(
        1,
        kind=count(1),
        group=ENSEMBLE,
        help="number of rounds; the copies are averaged after each",
    )
    mem_ratio: float | None = flag(
        None,
        kind=real(above=0),
        group=MITIGATIONS,
        help=(
            "anti-gradient control: ratio rho; a sample whose loss is below 1/rho of the usual"
            " loss at its timestep is skipped"
        ),
        unset="off",
    )
    arr_ema_decay: float = flag(
        0.8,
        kind=real(0, below=1),
        group=MITIGATIONS,
        help="decay of the loss bank of --mem_ratio",
    )
    agc_bins: int | None = flag(
        None,
        kind=count(1, MOST_BINS),
        group=MITIGATIONS,
        help=(
            "number of classes of times in the loss bank of --mem_ratio, visited equally often;"
            " fewer suit short runs"
        ),
        unset="1000, as published",
    )
    agc_bias_correction: bool = switch(
        group=MITIGATIONS,
        help="bias correction of the loss bank of --mem_ratio: divide by 1 - decay^visits",
    )

    agc_reshard: float | None = flag(
        None,
        kind=real(above=0, high=0.5),
        group=ENSEMBLE,
        help=(
            "re-sharding after each round: this share of every split, the images that --mem_ratio"
            " skipped most, changes places with images of the next split"
        ),
        unset="off",
    )
    agc_augment: float | None = flag(
        None,
        kind=real(above=1),
        group=MITIGATIONS,
        help=(
            "augmentation near the threshold of --mem_ratio: images whose losses are less than"
            " this many times as large as it are cropped and mirrored"
        ),
        unset="off",
    )

    def _check_caption_edit(self) -> None:
        if self.trainspecial and not PROMPT_STYLES[self.class_prompt].needs_captions:
            accepted = [name for name, style in PROMPT_STYLES.items() if style.needs_captions]
            raise UsageError(
                f"--trainspecial={self.trainspecial!r} edits captions;"
                f" --class_prompt={self.class_prompt!r} has none; use --class_prompt"
                f" {' or '.join(accepted)}"
            )

    def _check_loss_bank(self) -> None:
        if self.agc_bias_correction and not self.mem_ratio:
            raise UsageError(
                "--agc_bias_correction corrects the loss bank of --mem_ratio; give --mem_ratio too"
            )
        for name in ("agc_reshard", "agc_augment"):
            if getattr(self, name) is not None and not self.mem_ratio:
                raise UsageError(
                    f"--{name}={getattr(self, name):g} looks at what --mem_ratio skips; give"
                    " --mem_ratio too"
                )
        if self.agc_reshard is not None and min(self.clients_num, self.total_round) < 2:
            raise UsageError(
                f"--agc_reshard={self.agc_reshard:g} moves images between copies after rounds, and"
                f" there is --clients_num={self.clients_num} and --total_round={self.total_round};"
                " use 2 or more of both"
            )
