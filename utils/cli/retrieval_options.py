"""The options of diff_retrieval.py."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from utils.cli.common_options import CommonOptions, ReadingOptions, TrackingOptions
from utils.cli.flags import default_of, flag, one_of, real, some_of, switch, truth, whole
from utils.data.transforms import SSCD_PRESETS
from utils.files.owned_folders import require_writable
from utils.retrieval.descriptors.extractors import EXTRACTORS, USES_ARCH, USES_PRESET
from utils.retrieval.formulas.similarity import SIMILARITIES
from utils.retrieval.metrics import METRICS
from utils.runtime.errors import UsageError

PROTOCOLS = ("standard", "dcr")
MOST_MATCHES = 1000  # of a query: those of all queries are held at once


# flags that say what is computed of generations, or how; and of the networks through which images
# go
OF_EVALUATIONS = (
    "metrics",
    "copy_threshold",
    "sim_save_path",
    "num_matches",
    "dontsave",
    "cache_dir",
    "einsum_chunks",
    "run",
    "fid_weights",
    "fid_protocol",
    "fd_extractor",
    "clip_model",
    "clip_pretrained",
    "clip_protocol",
    "mq_size",
    "mq_flip",
)
OF_NETWORKS = ("weights", "imsize", "isvit")


@dataclass(frozen=True, kw_only=True)
class RetrievalOptions(CommonOptions, ReadingOptions, TrackingOptions):
    """diff_retrieval.py"""

    script: ClassVar[str] = "diff_retrieval.py"

    query_dir: str = flag(
        None, help="generated images: a generation folder or any folder of images (required)"
    )
    val_dir: str = flag(
        None,
        help=(
            "training images: a folder, tar shards (for --build_index also 'https://HOST/FOLDER/"
            "{00000..00999}.tar'), or an index that --build_index made (required)"
        ),
    )
    # the descriptor
    pt_style: str = flag("sscd", kind=one_of(EXTRACTORS), help="descriptor")
    arch: str = flag(
        "resnet50",
        "-a",
        help=(
            "network: for sscd resnet50, resnet50_disc, resnet50_im; for clip resnet50, vit_base,"
            " vit_large or open_clip's model:tag; for dino vit_base, dinov2_base and others; for"
            " timm a model name"
        ),
    )
    preset: str = flag("dcr", kind=one_of(SSCD_PRESETS), help="transform of sscd's input")
    weights: str = flag(None, "--pretrained", help="weights file of the descriptor")
    imsize: int = flag(
        None,
        kind=whole(16),
        help=(
            "side of the input of timm, dino and clip in pixels, else the network's "
            "own (224 for most)"
        ),
    )
    multiscale: bool = flag(
        False, kind=truth, help="average features over sides x 1, 0.71 and 0.5: true or false"
    )
    isvit: bool = switch(help="refuse a network that is no vision transformer")
    layer: int = flag(
        None,
        kind=whole(1),
        help=(
            "CLS token of this block of a ViT, from the end (1 is the last); with "
            "splitloss its patch tokens; else the network's own output"
        ),
    )
    keephead: bool = switch(help="accepted as published, where it never had an effect")
    keeppredictor: bool = switch(help="accepted as published, where it never had an effect")
    # how descriptors are compared
    similarity_metric: str = flag(
        "dotproduct", kind=one_of(SIMILARITIES), help="how descriptors are compared"
    )
    num_loss_chunks: int = flag(
        None,
        "--numpatches",
        kind=whole(1),
        help="chunks of a descriptor under splitloss (1; with --layer one a patch)",
    )
    stype: str = flag(
        None, kind=one_of(("cross",)), help="cross: splitloss compares every chunk with every chunk"
    )
    einsum_chunks: int = flag(
        4096, kind=whole(1), help="rows that are compared at once; changes nothing but memory"
    )
    copy_threshold: float = flag(
        None,
        kind=real(-1, 1),
        help="score above which an image counts as a copy (sscd 0.5, pixel 0.95, others none)",
    )
    # what is computed
    metrics: tuple = flag(
        None,
        kind=some_of(METRICS),
        help=f"what to compute, of {', '.join(METRICS)}, separated by commas; else all that can",
    )
    fid_weights: str = flag(None, help="weights file of the Inception network of FID")
    fid_protocol: str = flag(
        "standard",
        kind=one_of(PROTOCOLS),
        help="dcr: also fid_dcr, on the scale of the published script",
    )
    fd_extractor: str = flag("tf_efficientnet_lite0", help="timm model of the Frechet distance")
    clip_model: str = flag("ViT-B-16-quickgelu", help="open_clip model of the CLIP score")
    clip_pretrained: str = flag("openai", help="its weights: a tag of open_clip, or a file")
    clip_protocol: str = flag(
        "standard",
        kind=one_of(PROTOCOLS),
        help="dcr: also clipscore_dcr, of the published script's crop",
    )
    val_captions: str = flag(
        None,
        help=(
            "captions JSON of the training images, for clipscore_bg (else the run's); "
            "--build_index of a folder keeps them in the index"
        ),
    )
    mq_size: int = flag(
        64, kind=whole(4), help="side to which images are reduced for the memorized quantity"
    )
    mq_flip: bool = switch(help="try mirrored training images too, for the memorized quantity")
    run: str = flag(None, help="training run that names the duplicated images; else the manifest's")
    seed: int = flag(0, kind=whole(0), help="seed of bootstrap intervals and of KID's subsets")
    # what is written
    num_matches: int = flag(
        4,
        kind=whole(1, MOST_MATCHES),
        help="rows a query in matches.csv, and columns of the gallery, which shows ten at most",
    )
    dontsave: bool = switch(help="do not write similarity.npy")
    sim_save_path: str = flag(
        None, "-ssp", help="folder or .npy file for the whole matrix of scores, float16"
    )
    noeval: bool = switch(help="send nothing to a tracker")
    output_dir: str = flag(None, help="the evaluation's folder")
    cache_dir: str = flag(
        None, help="where features are kept for the next run, or none (the user's cache folder)"
    )
    build_index: str = flag(
        None,
        help=(
            "folder of an index of --val_dir to make or go on with, instead of an evaluation: "
            "descriptors on disk, shard by shard"
        ),
    )
    ann: bool = switch(
        help="search an index approximately (faiss IVF-PQ), then score what is found exactly"
    )
    dedup: bool = switch(
        help=(
            "find near-duplicates in --val_dir, instead of an evaluation: groups, weights for"
            " training"
        )
    )
    compare_runs: tuple = flag(
        (), several=True, help="evaluations to compare, instead of making one"
    )
    force: bool = switch(
        help="with --compare_runs, compare numbers that different descriptors made"
    )
    # how it is computed
    mixed_precision: str = flag(
        None, kind=one_of(("no", "fp16", "bf16")), help="of networks; else fp16 on a GPU, or no"
    )
    batch_size: int = flag(
        128, "-b", "--batch-size", kind=whole(1), help="images through the network at once"
    )
    gpu: int = flag(None, kind=whole(0), help="number of the GPU to use, with one process")
    world_size: int = flag(
        -1,
        "--world-size",
        kind=whole(-1),
        help="processes (nodes, with --multiprocessing-distributed); -1: as the launcher says",
    )
    rank: int = flag(-1, "--rank", kind=whole(-1), help="number of this process or node, from 0")
    dist_url: str = flag(
        None,
        "--dist-url",
        help="where processes meet: tcp://host:port; with one process nothing is opened",
    )
    dist_backend: str = flag(
        None,
        "--dist-backend",
        kind=one_of(("nccl", "gloo")),
        help="how they talk (nccl on GPUs, else gloo)",
    )
    multiprocessing_distributed: bool = switch(
        "--multiprocessing-distributed", help="start a process a GPU on this node"
    )

    @property
    def chunked(self):
        """The registry's name of how descriptors are compared: --stype cross with splitloss is
        splitlosscross."""
        return (
            "splitlosscross"
            if self.stype == "cross" and self.similarity_metric == "splitloss"
            else self.similarity_metric
        )

    @property
    def patch_tokens(self):
        return self.layer is not None and self.chunked != "dotproduct"

    @property
    def matrix_path(self):
        """File of the whole matrix, or None."""
        path = Path(self.sim_save_path) if self.sim_save_path else None
        return path if path is None or path.suffix == ".npy" else path / "similarity_matrix.npy"

    @property
    def prepares(self):
        """The flag that says that --val_dir alone is worked on, or None: an evaluation is made."""
        return "--build_index" if self.build_index else "--dedup" if self.dedup else None

    def _check_folders(self):
        if not self.val_dir:
            raise UsageError(
                "--val_dir is required (except with --compare_runs); give a folder of images, tar"
                " shards or an index"
            )
        if self.prepares:
            self._check_preparation()
        elif not self.query_dir:
            raise UsageError(
                "--query_dir is required (except with --build_index, --dedup, --compare_runs); give"
                " a folder of images"
            )

    def _check_preparation(self):
        if self.query_dir:
            raise UsageError(
                f"--query_dir={self.query_dir!r} does not go with {self.prepares}, which reads"
                " --val_dir alone; leave it out, then search with --query_dir and --val_dir=INDEX"
            )
        of_evaluations = [n for n in OF_EVALUATIONS if not (n == "copy_threshold" and self.dedup)]
        self._refuse(
            of_evaluations, f"is of an evaluation, and {self.prepares} makes none; leave it out"
        )
        if not self.build_index:
            self._refuse(
                OF_NETWORKS, "is of a network, and --dedup of an index has none; leave it out"
            )
        if self.val_captions and not self.build_index:
            raise UsageError(
                f"--val_captions={self.val_captions!r} does not go with --dedup of an index, which"
                " holds its captions"
            )
        if self.output_dir and not self.dedup:
            raise UsageError(
                f"--output_dir={self.output_dir!r} does not go with --build_index, which takes the"
                " index's own folder; leave it out, or add --dedup"
            )
        if self.chunked != "dotproduct":
            raise UsageError(
                f"--similarity_metric={self.similarity_metric!r} does not go with {self.prepares};"
                " takes dotproduct"
            )

    def _refuse(self, names, why):
        """UsageError for the first of the flags that is given, as far as it is not its default."""
        for name in names:
            if (value := getattr(self, name)) != default_of(self, name):
                shown = ",".join(value) if isinstance(value, tuple) else value
                raise UsageError(
                    f"--{name} {why}" if value is True else f"--{name}={shown!r} {why}"
                )

    def _check_comparison(self):
        why = (
            "does not go with --compare_runs, which reads evaluations alone; leave one of them out"
        )
        self._refuse(("build_index", "dedup", "ann"), why)

    def check(self):
        if self.compare_runs:
            self._check_comparison()
            return
        self._check_folders()
        if self.force:
            raise UsageError(
                "--force goes with --compare_runs; give evaluations to compare, or leave it out"
            )
        for name, users in (("arch", USES_ARCH), ("preset", USES_PRESET)):
            value = getattr(self, name)
            if self.pt_style not in users and value != default_of(self, name):
                raise UsageError(
                    f"--{name}={value!r} is of --pt_style {', '.join(users)}; --pt_style"
                    f" {self.pt_style} has none, leave it out"
                )
        if self.mixed_precision == "bf16":
            raise UsageError(
                "--mixed_precision='bf16' is too coarse for similarities (error 4e-3); takes one"
                " of: fp16, no"
            )
        if (self.num_loss_chunks or 1) > 1 and self.chunked == "dotproduct":
            raise UsageError(
                f"--num_loss_chunks={self.num_loss_chunks} is how --similarity_metric splitloss and"
                " splitlosscross cut; dotproduct has no chunks"
            )
        if self.stype and self.chunked == "dotproduct":
            raise UsageError(
                "--stype='cross' is a kind of --similarity_metric splitloss; give that too"
            )
        if self.matrix_path and self.matrix_path.exists():
            raise UsageError(
                f"--sim_save_path={self.sim_save_path!r}: {str(self.matrix_path)!r} exists; takes a"
                " new file"
            )
        if self.matrix_path:
            if self.matrix_path.parent.suffix in (".txt", ".csv", ".pt", ".pth", ".npz"):
                raise UsageError(
                    f"--sim_save_path={self.sim_save_path!r} is not accepted; takes a folder or a"
                    " .npy file"
                )
            require_writable("--sim_save_path", self.matrix_path.parent)
        self._check_processes()

    def _check_processes(self):
        if self.world_size == 0:
            raise UsageError(
                "--world-size=0 is not accepted; takes a number of processes, or -1: as the"
                " launcher says"
            )
        if self.rank > 0 and self.rank >= max(self.world_size, 1):
            raise UsageError(
                f"--rank={self.rank} is no rank of --world-size={self.world_size}; takes 0 to one"
                " less than that"
            )
        if self.world_size > 1:
            if self.rank < 0:
                raise UsageError(
                    f"--world-size={self.world_size} needs --rank, this process's number from 0"
                )
            if not (self.dist_url or "").startswith("tcp://"):
                raise UsageError(
                    f"--dist-url={self.dist_url!r} is not accepted; takes tcp://host:port, where"
                    " all processes meet"
                )
