"""The flags of diff_retrieval.py that choose the metrics, and what they read."""

from dataclasses import dataclass

from utils.cli.flags import Options, flag, switch
from utils.cli.kinds import MOST_PIXELS, PATH, SEED, count, one_of, some_of
from utils.retrieval.metrics import METRICS

PROTOCOLS = ("standard", "dcr")

METRIC = "metrics"  # title of --help


@dataclass(frozen=True, kw_only=True)
class MetricOptions(Options):
    """Flags of the metrics."""

    metrics: tuple[str, ...] | None = flag(
        None,
        kind=some_of(METRICS),
        group=METRIC,
        help="metrics to compute",
        unset="all that can be computed",
    )
    fid_weights: str | None = flag(
        None,
        kind=PATH,
        group=METRIC,
        help="weights file of FID's Inception network",
        unset="the usual weights",
    )
    fid_protocol: str = flag(
        "standard",
        kind=one_of(PROTOCOLS),
        group=METRIC,
        help="protocol of FID; dcr: also fid_dcr, on the scale of the published script",
    )
    fd_extractor: str = flag(
        "tf_efficientnet_lite0",
        group=METRIC,
        help="network of the Frechet distance: a model name of timm",
    )
    clip_model: str = flag(
        "ViT-B-16-quickgelu",
        group=METRIC,
        help="network of the CLIP score: a model name of open_clip",
    )
    clip_pretrained: str = flag(
        "openai",
        kind=PATH,
        group=METRIC,
        help="weights of --clip_model: a tag of open_clip, or a file",
    )
    clip_protocol: str = flag(
        "standard",
        kind=one_of(PROTOCOLS),
        group=METRIC,
        help="protocol of the CLIP score; dcr: also clipscore_dcr, with the published crop",
    )
    val_captions: str | None = flag(
        None,
        kind=PATH,
        group=METRIC,
        help=(
            "captions file of the training images, for clipscore_bg; --build_index of a folder"
            " keeps them in the index"
        ),
        unset="the training run's",
    )
    mq_size: int = flag(
        64,
        kind=count(4, MOST_PIXELS),
        group=METRIC,
        help="side in pixels to which images are reduced for the memorized quantity",
    )
    mq_flip: bool = switch(
        group=METRIC, help="mirrored training images too, for the memorized quantity"
    )
    run: str | None = flag(
        None,
        kind=PATH,
        group=METRIC,
        help="training run that names the duplicated images",
        unset="the run that the generation's manifest names",
    )
    seed: int = flag(
        0,
        kind=SEED,
        group=METRIC,
        help="seed of the bootstrap intervals and of KID's subsets",
    )
