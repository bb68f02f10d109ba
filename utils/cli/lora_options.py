"""The flags of diff_train.py that train LoRA adapters."""

from dataclasses import dataclass

from utils.cli import flags
from utils.cli.base_model_options import BaseModelOptions
from utils.cli.flags import flag, switch
from utils.cli.kinds import LISTED, count, one_of, real
from utils.runtime.errors import UsageError

LORA = "LoRA"  # title of --help


@dataclass(frozen=True, kw_only=True)
class LoraOptions(BaseModelOptions):
    """Flags of LoRA."""

    lora_rank: int | None = flag(
        None,
        "--rank",
        kind=count(1),
        group=LORA,
        help="rank of LoRA adapters, which learn instead of all weights; 4 to 64 are usual",
        unset="full weights",
    )
    lora_alpha: float | None = flag(
        None,
        kind=real(above=0),
        group=LORA,
        help="alpha of the adapters, which are scaled by alpha / rank",
        unset="--lora_rank",
    )
    lora_layers: str | None = flag(
        None,
        kind=LISTED,
        group=LORA,
        help=(
            "layers of the denoiser that are adapted, by the ends of their names:"
            " to_q,to_k,to_v,to_out.0,ff.net.2"
        ),
        unset="the attention's",
    )
    lora_dropout: float = flag(
        0.0,
        kind=real(0, below=1),
        group=LORA,
        help="probability that an input of an adapter is dropped in training",
    )
    use_dora: bool = switch(
        group=LORA, help="magnitude for each output too (DoRA, Liu et al. 2024); slower"
    )
    lora_freeze_a: bool = switch(
        group=LORA,
        help=(
            "training of the factor B alone (FFA-LoRA, Sun et al. 2024): an ensemble's average is"
            " then exact"
        ),
    )
    quantize_base: str = flag(
        "none",
        kind=one_of(("none", "int8", "nf4")),
        group=LORA,
        help=(
            "format of the weights that the adapters change, in the denoiser's linear layers: 8 or"
            " 4 bits (QLoRA, Dettmers et al. 2023) instead of the run's precision; slower"
        ),
    )
    output_kohya_format: bool = switch(
        group=LORA,
        help="a second file in each checkpoint, with the names of kohya's trainer; of U-Nets",
        may_change_on_resume=True,
    )

    def _check_lora(self) -> None:
        names = ("lora_alpha", "lora_layers", "lora_dropout", "use_dora", "lora_freeze_a")
        if self.lora_rank is None:
            given = flags.given(self, (*names, "quantize_base", "output_kohya_format"))
            if given:
                raise UsageError(
                    f"--{given[0]}={getattr(self, given[0])!r} is a setting of LoRA; give"
                    " --lora_rank too, such as --lora_rank 16"
                )
            return
        if self.unet_from_scratch == "yes":
            raise UsageError(
                f"--lora_rank={self.lora_rank} and --unet_from_scratch=yes: an adapter needs the"
                " model that it changes; leave one of them out"
            )
        if self.tokenizer_name:
            raise UsageError(
                f"--lora_rank={self.lora_rank} and --tokenizer_name={self.tokenizer_name!r}: a"
                " checkpoint of LoRA holds no tokenizer; save the base model with that tokenizer,"
                " and leave the flag out"
            )
        if self.output_kohya_format and self.use_dora:
            raise UsageError(
                "--output_kohya_format and --use_dora: programs do not agree on names for DoRA's"
                " magnitudes; leave one of them out"
            )
