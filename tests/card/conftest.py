"""A small run with checkpoints and held-out pictures, and cards of it."""

import shutil

import pytest

from tests.conftest import SEED_FLAGS

# a card of a miniature: two steps, two images of each prompt, one metric; half of the innocents
# count as copies, so that there are some
SMALL = ("--pt_style", "pixel", "--num_inference_steps", "2", "-imb", "2", "--num_workers", "0")
SMALL += ("--metrics", "similarity", "--no_align")
MANY_COPIES = ("--false_positives", "0.5")


@pytest.fixture(scope="session")
def small_run(tmp_path_factory, micro_sd, scenes_dir):
    """A finished run of four steps on ten of twelve scenes; two are held out. No test writes
    here."""
    import diff_train

    folder = tmp_path_factory.mktemp("card-runs") / "run"
    flags = {
        "--pretrained_model_name_or_path": micro_sd,
        "--instance_data_dir": scenes_dir / "train",
        "--instance_prompt_loc": scenes_dir / "captions.json",
        "--class_prompt": "instancelevel_blip",
        "--duplication": "dup_both",
        "--weight_pc": "0.25",
        "--resolution": "16",
        "--train_batch_size": "2",
        "--max_train_steps": "4",
        "--modelsavesteps": "2",
        "--holdout": "0.2",
        "--seed": "7",
        "--output_dir": folder,
    }
    diff_train.main([*(str(word) for pair in flags.items() for word in pair), *SEED_FLAGS])
    return folder


@pytest.fixture(scope="session")
def finished_card(tmp_path_factory, small_run):
    """A card in which many images count as copies: the threshold is low. No test writes here."""
    import diff_retrieval

    folder = tmp_path_factory.mktemp("cards") / "card"
    diff_retrieval.main(
        [
            "--modelpath",
            str(small_run),
            *SMALL,
            *MANY_COPIES,
            "--output_dir",
            str(folder),
        ]
    )
    return folder


@pytest.fixture
def card_copy(finished_card, tmp_path):
    """The finished card, to write in."""
    return shutil.copytree(finished_card, tmp_path / "card")


@pytest.fixture(scope="session")
def no_copies(tmp_path_factory):
    """Flags of a card without copies: a high threshold that too few innocents replace."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("innocents")
    for number in range(3):
        Image.linear_gradient("L").rotate(50 * number).save(folder / f"{number}.png")
    return ("--copy_threshold", "0.99", "--innocent_dir", folder)
