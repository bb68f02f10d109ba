import pytest

from utils.cli import card_options, flags
from utils.cli.retrieval_options import RetrievalOptions
from utils.runtime.errors import UsageError


def parse(*argv):
    return flags.parse(RetrievalOptions, argv, description="")


def test_a_card_needs_a_model_alone():
    opts = parse("--modelpath", "run", "--budget", "30", "--gate", "-imb", "2")
    assert (opts.budget, opts.gate, opts.im_batch, opts.max_copy_share) == (30.0, True, 2, 0.02)
    assert opts.val_dir is None


@pytest.mark.parametrize("name", card_options.OF_CARDS)
def test_a_flag_of_a_card_is_refused_without_a_model(name):
    values = {"gate": (), "scheduler": ("DDIM",), "prompts": ("p",), "base_model": ("m",)}
    values |= {"resolution": ("64",), "checkpoint": ("best",)}
    given = (f"--{name}", *values.get(name, ("1",)))
    with pytest.raises(UsageError, match=f"--{name}.* applies to a memorization card"):
        parse("--query_dir", "q", "--val_dir", "v", *given)


@pytest.mark.parametrize("name", card_options.NOT_OF_CARDS)
def test_what_a_card_does_by_itself_is_refused(name):
    names = {field.name: field for field in flags.fields(RetrievalOptions)}
    switch = names[name].metadata["kind"] is flags.SWITCH
    given = (f"--{name}",) if switch else (f"--{name}", "3")
    with pytest.raises(UsageError, match=f"--{name}.* does not go with --modelpath"):
        parse("--modelpath", "run", *given)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("--budget", "0"), "--budget='0' is not accepted; use a number above 0"),
        (("--max_copy_share", "1.5"), "--max_copy_share='1.5' is not accepted"),
        (("--im_batch", "0"), "--im_batch='0' is not accepted"),
    ],
)
def test_values_that_are_not_accepted(given, message):
    with pytest.raises(UsageError, match=message):
        parse("--modelpath", "run", *given)
