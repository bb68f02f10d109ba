"""The flags of diff_retrieval.py."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from utils.cli.card_options import CARD, CardOptions
from utils.cli.common_options import (
    COLUMNS,
    READING,
    RUNNING,
    SPEED,
    TRACKING,
    ColumnOptions,
    CommonOptions,
    ReadingOptions,
    TrackingOptions,
)
from utils.cli.descriptor_options import DESCRIPTOR, SIMILARITY, DescriptorOptions
from utils.cli.flags import flag, switch
from utils.cli.kinds import (
    MOST_AT_ONCE,
    PATH,
    count,
    one_of,
    real,
    some_of,
    whole,
)
from utils.cli.launch_options import PROCESSES, LaunchOptions
from utils.cli.metric_options import METRIC, MetricOptions
from utils.files.owned_folders import require_writable
from utils.retrieval.candidates import VIEWS
from utils.runtime.errors import UsageError

MOST_MATCHES = 1000  # per query: the matches of all queries are in memory at once
# suffixes of files that --sim_save_path does not write
OTHER_SUFFIXES = (".txt", ".csv", ".pt", ".pth", ".npz")

# flags that apply to an evaluation only, not to --build_index and --dedup
OF_EVALUATIONS = (
    "metrics",
    "copy_threshold",
    "sim_save_path",
    "num_matches",
    "no_align",
    "views",
    "num_candidates",
    "innocent_dir",
    "base_dir",
    "false_positives",
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
# flags that apply to the network that describes images
OF_NETWORKS = ("weights", "imsize", "isvit")

# the flags of version 0.1.0, in whose order metrics.json lists them for ever
FIRST_VERSION = """
report_to wandb_project num_workers max_bad_images dry_run mixed_precision run_name
query_dir val_dir pt_style arch preset weights imsize multiscale isvit layer keephead
keeppredictor similarity_metric num_loss_chunks stype einsum_chunks copy_threshold metrics
fid_weights fid_protocol fd_extractor clip_model clip_pretrained clip_protocol
val_captions mq_size mq_flip run seed num_matches dontsave sim_save_path noeval output_dir
cache_dir build_index ann dedup compare_runs force batch_size gpu world_size rank dist_url
dist_backend multiprocessing_distributed
"""

# titles of --help
IMAGES = "images"
VERDICT = "verdict"
SAVING = "what is saved"
INDEX = "index and near-duplicates"
COMPARISON = "comparison of evaluations"


@dataclass(frozen=True, kw_only=True)
class RetrievalOptions(
    DescriptorOptions,
    MetricOptions,
    LaunchOptions,
    CommonOptions,
    ReadingOptions,
    ColumnOptions,
    TrackingOptions,
    CardOptions,
):
    """Flags of diff_retrieval.py."""

    script: ClassVar[str] = "diff_retrieval.py"
    groups: ClassVar[tuple[str, ...]] = (
        IMAGES,
        COLUMNS,
        DESCRIPTOR,
        SIMILARITY,
        VERDICT,
        METRIC,
        SAVING,
        CARD,
        INDEX,
        COMPARISON,
        SPEED,
        READING,
        PROCESSES,
        TRACKING,
        RUNNING,
    )
    recorded_first: ClassVar[tuple[str, ...]] = tuple(FIRST_VERSION.split())
    example: ClassVar[str] = "--query_dir generations --val_dir photos --pt_style sscd"

    query_dir: str | None = flag(
        None,
        kind=PATH,
        group=IMAGES,
        help=(
            "generated images: a generation folder, or any folder of images; required for an"
            " evaluation"
        ),
    )
    val_dir: str | None = flag(
        None,
        kind=PATH,
        group=IMAGES,
        help=(
            "training images: a folder, tar shards (for --build_index also 'https://HOST/FOLDER/"
            "{00000..00999}.tar'), or an index of --build_index; required, except with"
            " --compare_runs"
        ),
    )
    no_align: bool = switch(
        group=VERDICT,
        help="no second look: candidates are not aligned, and the descriptor's score decides",
    )
    views: tuple[str, ...] | None = flag(
        None,
        kind=some_of(VIEWS),
        group=VERDICT,
        help="views of a generated image by which candidates for alignment are searched",
        unset="all with pixel and timm; plain and mirrored with others",
    )
    num_candidates: int = flag(
        10,
        kind=whole(1, 100),
        group=VERDICT,
        help="number of training images with which each generated image is aligned",
    )
    innocent_dir: str | None = flag(
        None,
        kind=PATH,
        group=VERDICT,
        help="pictures like the training images that nobody copied; they set the threshold",
        unset="what the run held out, else --base_dir, else the training images themselves",
    )
    base_dir: str | None = flag(
        None,
        kind=PATH,
        group=VERDICT,
        help="images of the base model, as innocents",
    )
    false_positives: float = flag(
        0.01,
        kind=real(0, 0.5),
        group=VERDICT,
        help="share of the innocents that may exceed the threshold",
    )
    num_matches: int = flag(
        4,
        kind=whole(1, MOST_MATCHES),
        group=SAVING,
        help="number of matches per query in matches.csv, and in the gallery up to 10",
    )
    dontsave: bool = switch(group=SAVING, help="no similarity.npy is written")
    sim_save_path: str | None = flag(
        None,
        "-ssp",
        kind=PATH,
        group=SAVING,
        help="folder or .npy file for the matrix of all similarities, in float16",
        unset="not written",
    )
    noeval: bool = switch(group=TRACKING, help="no tracker, as with --report_to none")
    output_dir: str | None = flag(
        None,
        kind=PATH,
        group=SAVING,
        help="folder of the evaluation",
        unset="<query_dir>/evaluations/<name>",
    )
    cache_dir: str | None = flag(
        None,
        kind=PATH,
        group=SPEED,
        help="folder in which features are cached for the next evaluation; none: no cache",
        unset="the user's cache folder",
    )
    build_index: str | None = flag(
        None,
        kind=PATH,
        group=INDEX,
        help=(
            "folder of an index of --val_dir to build or continue, instead of an evaluation:"
            " descriptors on disk, shard by shard"
        ),
    )
    ann: bool = switch(
        group=INDEX,
        help="approximate search of an index (faiss IVF-PQ); its candidates are scored exactly",
    )
    dedup: bool = switch(
        group=INDEX,
        help=(
            "search for near-duplicates in --val_dir, instead of an evaluation: groups, and weights"
            " for training"
        ),
    )
    verify: bool = switch(
        group=INDEX,
        help=(
            "check that the index of --val_dir is as it was written, by its checksums; without"
            " --query_dir this alone. It is also checked once a day"
        ),
    )
    compare_runs: tuple[str, ...] = flag(
        (),
        "--compare_evaluations",
        kind=PATH,
        several=True,
        group=COMPARISON,
        help="evaluations to compare, instead of a new evaluation",
    )
    force: bool = switch(
        group=COMPARISON, help="comparison even of evaluations whose settings differ"
    )
    # the base class declares a str; None leaves the choice to the device
    mixed_precision: str | None = flag(  # type: ignore[assignment]
        None,
        kind=one_of(("no", "fp16", "bf16")),
        group=SPEED,
        help="precision of the networks; no is float32, bf16 is refused as too coarse",
        unset="fp16 on a GPU, otherwise no",
    )
    batch_size: int = flag(
        128,
        "-b",
        "--batch-size",
        kind=count(1, MOST_AT_ONCE),
        group=SPEED,
        help="number of images in a batch; a CPU takes 8 of them through the network at a time",
    )
    gpu: int | None = flag(
        None,
        kind=count(0),
        group=SPEED,
        help="number of the GPU to use, with one process",
        unset="the first",
    )

    @property
    def matrix_path(self) -> Path | None:
        """File of the matrix of all similarities."""
        if not self.sim_save_path:
            return None
        path = Path(self.sim_save_path)
        return path if path.suffix == ".npy" else path / "similarity_matrix.npy"

    @property
    def prepares(self) -> str | None:
        """The flag by which the script works on --val_dir alone; None for an evaluation."""
        if self.build_index:
            return "--build_index"
        if self.dedup:
            return "--dedup"
        return "--verify" if self.verify and not self.query_dir else None

    def check(self) -> None:
        self._check_card()
        if self.compare_runs:
            self._check_comparison()
            return
        if not self.modelpath:
            self._check_folders()
        if self.prepares:
            self._check_preparation(self.prepares)
        if self.force:
            raise UsageError(
                "--force is used with --compare_runs; give evaluations to compare, or leave it out"
            )
        self._check_descriptor()
        self._check_precision()
        self._check_chunks()
        self._check_matrix_path()
        self._check_processes()

    def _check_comparison(self) -> None:
        self._refuse(
            ("build_index", "dedup", "ann", "verify", "caption_column", "image_column"),
            "does not go with --compare_runs, which reads evaluations only; leave one of them out",
        )

    def _check_folders(self) -> None:
        if not self.val_dir:
            raise UsageError(
                "--val_dir is required (except with --compare_runs); give a folder of images, tar"
                " shards or an index"
            )
        if not self.query_dir and not self.prepares:
            raise UsageError(
                "--query_dir is required (except with --build_index, --dedup, --verify,"
                " --compare_runs); give a folder of images"
            )

    def _check_preparation(self, prepares: str) -> None:
        """prepares: --build_index or --dedup."""
        if self.query_dir:
            raise UsageError(
                f"--query_dir={self.query_dir!r} does not go with {prepares}, which reads --val_dir"
                " only; leave it out, then search with --query_dir and --val_dir=INDEX"
            )
        self._refuse_flags_of_evaluations(prepares)
        self._check_index()
        if self.chunked != "dotproduct":
            raise UsageError(
                f"--similarity_metric={self.similarity_metric!r} does not go with {prepares}; use"
                " dotproduct"
            )

    def _refuse_flags_of_evaluations(self, prepares: str) -> None:
        of_evaluations = [n for n in OF_EVALUATIONS if not (n == "copy_threshold" and self.dedup)]
        self._refuse(of_evaluations, f"applies to an evaluation, not to {prepares}; leave it out")

    def _check_index(self) -> None:
        if not self.build_index:
            self._refuse(
                OF_NETWORKS, "applies to a network, and --dedup of an index uses none; leave it out"
            )
        if self.val_captions and not self.build_index:
            raise UsageError(
                f"--val_captions={self.val_captions!r} does not go with --dedup of an index, which"
                " holds its captions"
            )
        if self.output_dir and not self.dedup:
            raise UsageError(
                f"--output_dir={self.output_dir!r} does not go with --build_index, which writes to"
                " the index's own folder; leave it out, or add --dedup"
            )

    def _check_precision(self) -> None:
        if self.mixed_precision == "bf16":
            raise UsageError(
                "--mixed_precision='bf16' is too coarse for similarities (error 4e-3); use one of:"
                " fp16, no"
            )

    def _check_matrix_path(self) -> None:
        path = self.matrix_path
        if path is None:
            return
        if path.exists():
            raise UsageError(
                f"--sim_save_path={self.sim_save_path!r}: {str(path)!r} exists; give a new file"
            )
        if path.parent.suffix in OTHER_SUFFIXES:
            raise UsageError(
                f"--sim_save_path={self.sim_save_path!r} is not accepted; use a folder or a .npy"
                " file"
            )
        require_writable("--sim_save_path", path.parent)
