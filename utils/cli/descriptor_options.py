"""The flags of diff_retrieval.py that choose the descriptor, and how two of them are compared."""

from dataclasses import dataclass

from utils.cli.flags import Options, default_of, flag, switch
from utils.cli.kinds import MOST_PIXELS, PATH, TRUTH, count, one_of, real
from utils.data.transforms import SSCD_PRESETS
from utils.retrieval.descriptors.extractors import EXTRACTORS, USES_ARCH, USES_PRESET
from utils.retrieval.descriptors.timm_models import DINO
from utils.retrieval.formulas.similarity import SIMILARITIES
from utils.runtime.errors import UsageError

# titles of --help
DESCRIPTOR = "descriptor"
SIMILARITY = "similarity"


@dataclass(frozen=True, kw_only=True)
class DescriptorOptions(Options):
    """Flags of descriptor and similarity."""

    pt_style: str = flag(
        "sscd", kind=one_of(EXTRACTORS), group=DESCRIPTOR, help="descriptor of the images"
    )
    arch: str = flag(
        "resnet50",
        "-a",
        group=DESCRIPTOR,
        help=(
            "network of the descriptor; sscd: resnet50, resnet50_disc, resnet50_im; clip: resnet50,"
            " vit_base, vit_large or open_clip's model:tag; dino:"
            f" {', '.join(DINO)}; timm: a model name"
        ),
    )
    preset: str = flag(
        "dcr", kind=one_of(SSCD_PRESETS), group=DESCRIPTOR, help="transform of sscd's input images"
    )
    weights: str | None = flag(
        None,
        "--pretrained",
        kind=PATH,
        group=DESCRIPTOR,
        help="weights file of the descriptor",
        unset="the usual weights",
    )
    imsize: int | None = flag(
        None,
        kind=count(16, MOST_PIXELS),
        group=DESCRIPTOR,
        help="side of the input images of timm, dino and clip in pixels",
        unset="the network's own, 224 for most",
    )
    multiscale: bool = flag(
        False,
        kind=TRUTH,
        group=DESCRIPTOR,
        help="average of the features of three sizes: sides x 1, 0.71 and 0.5",
    )
    isvit: bool = switch(
        group=DESCRIPTOR, help="check that the network is a vision transformer; others are refused"
    )
    layer: int | None = flag(
        None,
        kind=count(1),
        group=DESCRIPTOR,
        help=(
            "block of a vision transformer, counted from the end (1 is the last), whose CLS token"
            " is the descriptor; with splitloss its patch tokens"
        ),
        unset="the network's own output",
    )
    keephead: bool = switch(group=DESCRIPTOR, help="published flag without effect")
    keeppredictor: bool = switch(group=DESCRIPTOR, help="published flag without effect")
    similarity_metric: str = flag(
        "dotproduct",
        kind=one_of(SIMILARITIES),
        group=SIMILARITY,
        help="similarity of two descriptors",
    )
    num_loss_chunks: int | None = flag(
        None,
        "--numpatches",
        kind=count(1),
        group=SIMILARITY,
        help="number of chunks of a descriptor under splitloss",
        unset="1, with --layer one per patch",
    )
    stype: str | None = flag(
        None,
        kind=one_of(("cross",)),
        group=SIMILARITY,
        help="variant of splitloss; cross: every chunk is compared with every chunk",
        unset="each chunk with the same chunk of the other image",
    )
    einsum_chunks: int = flag(
        4096,
        kind=count(1),
        group=SIMILARITY,
        help="number of rows that are compared at once; changes memory only",
    )
    copy_threshold: float | None = flag(
        None,
        kind=real(-1, 1),
        group=SIMILARITY,
        help="similarity above which an image counts as a copy, or as a near-duplicate",
        unset="sscd 0.5, pixel 0.95, others none; for --dedup sscd 0.75, pixel 0.95",
    )

    @property
    def chunked(self) -> str:
        """The name in SIMILARITIES of how descriptors are compared: splitlosscross for splitloss
        with --stype cross."""
        if self.stype == "cross" and self.similarity_metric == "splitloss":
            return "splitlosscross"
        return self.similarity_metric

    @property
    def patch_tokens(self) -> bool:
        """Whether the patch tokens of --layer are the descriptor, not its CLS token."""
        return self.layer is not None and self.chunked != "dotproduct"

    def _check_descriptor(self) -> None:
        for name, styles in (("arch", USES_ARCH), ("preset", USES_PRESET)):
            value = getattr(self, name)
            if self.pt_style not in styles and value != default_of(self, name):
                raise UsageError(
                    f"--{name}={value!r} applies to --pt_style {', '.join(styles)}; --pt_style"
                    f" {self.pt_style} does not use it, leave it out"
                )

    def _check_chunks(self) -> None:
        if self.chunked != "dotproduct":
            return
        if (self.num_loss_chunks or 1) > 1:
            raise UsageError(
                f"--num_loss_chunks={self.num_loss_chunks} applies to --similarity_metric"
                " splitloss; dotproduct has no chunks"
            )
        if self.stype:
            raise UsageError(
                f"--stype={self.stype!r} applies to --similarity_metric splitloss; give that too"
            )
