import pytest

from utils.cli import flags
from utils.cli.retrieval_options import RetrievalOptions
from utils.runtime.errors import UsageError


def parse(*extra):
    return flags.parse(
        RetrievalOptions, ["--query_dir", "q", "--val_dir", "v", *map(str, extra)], description=""
    )


def test_published_defaults_and_spellings():
    opts = parse(
        "-a",
        "resnet50_disc",
        "-b",
        64,
        "-j",
        2,
        "--workers",
        3,
        "--pretrained",
        "w.pt",
        "--dist-url",
        "tcp://localhost:10001",
        "--world-size",
        1,
        "--rank",
        0,
        "--dist-backend",
        "nccl",
        "--multiscale",
        "true",
        "-ssp",
        "out",
        "--numpatches",
        4,
        "--similarity_metric",
        "splitloss",
        "--multiprocessing-distributed",
    )
    assert (opts.arch, opts.batch_size, opts.num_workers, opts.weights) == (
        "resnet50_disc",
        64,
        3,
        "w.pt",
    )
    assert (opts.multiscale, opts.num_loss_chunks, opts.multiprocessing_distributed) == (
        True,
        4,
        True,
    )
    expected = {
        "pt_style": "sscd",
        "arch": "resnet50",
        "num_workers": 4,
        "batch_size": 128,
        "world_size": -1,
        "rank": -1,
        "multiscale": False,
        "similarity_metric": "dotproduct",
        "num_matches": 4,
        "preset": "dcr",
        "seed": 0,
        "mq_size": 64,
        "fd_extractor": "tf_efficientnet_lite0",
        "report_to": "wandb",
        "dontsave": False,
    }
    assert {k: getattr(parse(), k) for k in expected} == expected


@pytest.mark.parametrize(
    ("extra", "chunked", "patches"),
    [
        ((), "dotproduct", False),
        (("--similarity_metric", "splitloss"), "splitloss", False),
        (
            ("--similarity_metric", "splitloss", "--stype", "cross", "--layer", 1),
            "splitlosscross",
            True,
        ),
        (("--layer", 2), "dotproduct", False),
    ],
)
def test_how_descriptors_are_compared(extra, chunked, patches):
    assert (parse(*extra).chunked, parse(*extra).patch_tokens) == (chunked, patches)


def test_the_whole_matrix_goes_to_a_file_or_into_a_folder(tmp_path):
    assert parse().matrix_path is None
    assert parse("-ssp", "m.npy").matrix_path.as_posix() == "m.npy"
    assert parse("-ssp", "m").matrix_path.as_posix() == "m/similarity_matrix.npy"


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (
            ("--num_loss_chunks", 4),
            "--num_loss_chunks=4 applies to --similarity_metric splitloss; dotproduct has no chunks",
        ),
        (("--stype", "cross"), "--stype='cross' applies to --similarity_metric splitloss"),
        (("--stype", "round"), "--stype='round' is not accepted; use one of: cross"),
        (
            ("--multiscale", "perhaps"),
            "--multiscale='perhaps' is not accepted; use true or false",
        ),
        (("--world-size", 0), "--world-size=0 is not accepted"),
        (("--world-size", 2), "--world-size=2 needs --rank"),
        (("--world-size", 2, "--rank", 2), "--rank=2 does not fit --world-size=2"),
        (("--rank", 3), "--rank=3 does not fit --world-size=-1; use 0 to one less"),
        (
            ("--world-size", 2, "--rank", 1),
            "--dist-url=None is not accepted; use tcp://host:port",
        ),
        (("--mixed_precision", "bf16"), "too coarse for similarities"),
        (("--force",), "--force is used with --compare_runs"),
        (
            ("--metrics", "beauty"),
            (
                "--metrics='beauty' is not accepted; use names separated by commas, of:"
                " background, clip"
            ),
        ),
        (
            ("--pt_style", "pixel", "--arch", "vit_base"),
            "--arch='vit_base' applies to --pt_style sscd, clip, dino, timm; --pt_style pixel does not",
        ),
        (
            ("--pt_style", "timm", "--preset", "sscd"),
            "--preset='sscd' applies to --pt_style sscd; --pt_style timm does not use it, leave it out",
        ),
        (
            ("--num_matches", 1001),
            "--num_matches='1001' is not accepted; use a whole number from 1 to 1000",
        ),
        (
            ("--num_matches", 0),
            "--num_matches='0' is not accepted; use a whole number from 1 to 1000",
        ),
        (("--imsize", 4), "--imsize='4' is not accepted; use a whole number at least 16"),
        (
            ("--fid_protocol", "clean"),
            "--fid_protocol='clean' is not accepted; use one of: dcr, standard",
        ),
    ],
)
def test_errors_name_flag_value_and_what_is_accepted(extra, message):
    with pytest.raises(UsageError) as error:
        parse(*extra)
    assert message in str(error.value)


def test_one_chunk_is_what_dotproduct_does_as_published():
    assert parse("--num_loss_chunks", 1).chunked == "dotproduct"


def test_folders_are_required_unless_evaluations_are_compared(tmp_path):
    with pytest.raises(UsageError, match=r"--val_dir is required \(except with --compare_runs\)"):
        flags.parse(RetrievalOptions, [], description="")
    with pytest.raises(UsageError, match="--val_dir is required"):
        flags.parse(RetrievalOptions, ["--query_dir", "q"], description="")
    opts = flags.parse(
        RetrievalOptions, ["--compare_runs", "a", "b", "c", "--force"], description=""
    )
    assert (opts.compare_runs, opts.force) == (("a", "b", "c"), True)
    alias = flags.parse(RetrievalOptions, ["--compare_evaluations", "a", "b"], description="")
    assert alias.compare_runs == ("a", "b")


@pytest.mark.parametrize(
    ("flag", "given"),
    [
        (("--build_index", "i"), "--build_index='i'"),
        (("--dedup",), "--dedup"),
        (("--ann",), "--ann"),
    ],
)
def test_what_works_on_an_index_does_not_go_with_a_comparison(flag, given):
    with pytest.raises(UsageError) as error:
        flags.parse(RetrievalOptions, ["--compare_runs", "a", "b", *flag], description="")
    assert str(error.value).startswith(
        f"{given} does not go with --compare_runs, which reads evaluations only"
    )


def test_an_index_is_built_in_its_own_folder_and_duplicates_may_go_to_another():
    build = ["--val_dir", "v", "--build_index", "i", "--output_dir", "o"]
    with pytest.raises(
        UsageError,
        match="--output_dir='o' does not go with --build_index, .*leave it out, or add --dedup",
    ):
        flags.parse(RetrievalOptions, build, description="")
    assert flags.parse(RetrievalOptions, [*build, "--dedup"], description="").output_dir == "o"


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        (("--metrics", "fid,kid"), "--metrics='fid,kid'"),
        (("--sim_save_path", "m.npy"), "--sim_save_path='m.npy'"),
        (("--num_matches", "7"), "--num_matches=7"),
        (("--run", "r"), "--run='r'"),
        (("--mq_flip",), "--mq_flip"),
        (("--clip_protocol", "dcr"), "--clip_protocol='dcr'"),
        (("--dontsave",), "--dontsave"),
        (("--cache_dir", "c"), "--cache_dir='c'"),
    ],
)
@pytest.mark.parametrize("prepares", [("--build_index", "i"), ("--dedup",)])
def test_what_is_of_an_evaluation_is_refused_where_none_is_made(prepares, given, shown):
    with pytest.raises(
        UsageError,
        match=f"^{shown} applies to an evaluation, not to {prepares[0]}; leave it out",
    ):
        flags.parse(RetrievalOptions, ["--val_dir", "v", *prepares, *given], description="")


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        (("--imsize", "448"), "--imsize=448"),
        (("--isvit",), "--isvit"),
        (("--weights", "w.pt"), "--weights='w.pt'"),
    ],
)
def test_a_network_is_named_for_an_index_that_is_made_alone(given, shown):
    with pytest.raises(
        UsageError,
        match=f"^{shown} applies to a network, and --dedup of an index uses none; leave it out",
    ):
        flags.parse(RetrievalOptions, ["--val_dir", "v", "--dedup", *given], description="")
    assert flags.parse(
        RetrievalOptions,
        ["--val_dir", "v", "--dedup", "--build_index", "i", *given],
        description="",
    ).dedup


def test_a_threshold_is_of_evaluations_and_of_near_duplicates():
    given = ["--val_dir", "v", "--copy_threshold", "0.8"]
    assert flags.parse(RetrievalOptions, [*given, "--dedup"], description="").copy_threshold == 0.8
    with pytest.raises(
        UsageError,
        match="--copy_threshold=0.8 applies to an evaluation, not to --build_index",
    ):
        flags.parse(RetrievalOptions, [*given, "--build_index", "i"], description="")


def test_captions_of_an_index_are_its_own():
    with pytest.raises(
        UsageError,
        match="--val_captions='c' does not go with --dedup of an index, which holds its captions",
    ):
        flags.parse(
            RetrievalOptions, ["--val_dir", "v", "--dedup", "--val_captions", "c"], description=""
        )


def test_help_says_that_an_index_takes_captions():
    words = " ".join(flags.build_parser(RetrievalOptions, description="").format_help().split())
    assert (
        "--build_index of a folder keeps them" in words[words.rindex("--val_captions PATH") :][:200]
    )


def test_a_matrix_that_is_there_is_not_overwritten(tmp_path):
    (tmp_path / "similarity_matrix.npy").write_bytes(b"mine")
    with pytest.raises(UsageError, match="exists; give a new file"):
        parse("-ssp", tmp_path)
