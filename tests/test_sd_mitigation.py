import dataclasses
import json

import pytest
from PIL import Image

import sd_mitigation
from utils.cli import generation_options
from utils.reports import galleries

FAST = ("--num_inference_steps", 2, "--resolution", 16)


def rows_of(folder):
    return json.loads((folder / "manifest.json").read_text())["images"]


@pytest.mark.parametrize(
    ("flags", "name"),
    [
        (["--rand_noise_lam", 0.1], "gen_ginfer0.1"),
        (["--rand_augs", "rand_word_repeat"], "gen_auginfer_rand_word_repeat_4"),
        (["--rand_augs", "rand_word_add"], "gen_auginfer_rand_word_add_4"),
        (["--rand_augs", "rand_numb_add"], "gen_auginfer_rand_numb_add_4"),
    ],
)
def test_each_mitigation_of_the_published_list(
    script, micro_sd, tmp_path, monkeypatch, flags, name
):
    monkeypatch.chdir(tmp_path)
    script(
        "sd_mitigation",
        *flags,
        "--seed",
        2,
        "-nb",
        2,
        "--pretrained_model_name_or_path",
        micro_sd,
        *FAST,
    )
    (folder,) = (tmp_path / "mitigationSD" / "inf_2").iterdir()
    assert folder.name.startswith(f"{name}-")
    rows = rows_of(folder)
    assert [r["source_prompt"] for r in rows] == ["Wall View 002", "Wall View 003"]
    words = [len(r["prompt"].split(" ")) - len(r["source_prompt"].split(" ")) for r in rows]
    assert words == ([0, 0] if "--rand_noise_lam" in flags else [4, 4])


def test_by_default_every_prompt_once(script, micro_sd, tmp_path):
    script(
        "sd_mitigation",
        "--pretrained_model_name_or_path",
        micro_sd,
        "--savepath",
        tmp_path / "g",
        *FAST,
    )
    assert [r["prompt"] for r in rows_of(tmp_path / "g")] == list(sd_mitigation.REPLICATED_PROMPTS)
    assert len(sd_mitigation.REPLICATED_PROMPTS) == 12


def test_it_shares_noise_and_prompts_with_inference(script, micro_run, scenes_dir, tmp_path):
    common = (
        "--modelpath",
        micro_run,
        "--prompts",
        scenes_dir / "captions.json",
        "--seed",
        4,
        "-nb",
        3,
        *FAST,
    )
    script("diff_inference", *common, "--savepath", tmp_path / "plain")
    script(
        "sd_mitigation", *common, "--rand_augs", "rand_word_add", "--savepath", tmp_path / "edited"
    )
    plain, edited = rows_of(tmp_path / "plain"), rows_of(tmp_path / "edited")
    for key in ("seed", "source_prompt", "source_image"):
        assert [r[key] for r in plain] == [r[key] for r in edited]
    assert all(p["prompt"] != e["prompt"] for p, e in zip(plain, edited, strict=True))


def test_its_folder_is_its_own_even_for_a_run(script, micro_run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    script(
        "sd_mitigation",
        "--modelpath",
        micro_run,
        "-nb",
        1,
        "--seed",
        5,
        "--run_name",
        "mine",
        *FAST,
    )
    assert (tmp_path / "mitigationSD" / "inf_5" / "mine" / "manifest.json").exists()


def test_a_style_draws_from_the_run(script, micro_run, tmp_path):
    script(
        "sd_mitigation",
        "--modelpath",
        micro_run,
        "--modelstyle",
        "classlevel",
        "-nb",
        3,
        "--savepath",
        tmp_path / "g",
        *FAST,
    )
    assert all(r["prompt"].startswith("An image of ") for r in rows_of(tmp_path / "g"))


def test_compare_makes_both_from_the_same_noise_and_one_grid(
    script, micro_sd, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    common = ("--pretrained_model_name_or_path", micro_sd, "--compare", "-nb", 2, *FAST)
    printed = script("sd_mitigation", "--rand_augs", "rand_word_add", *common)
    plain, edited = sorted((tmp_path / "mitigationSD" / "inf_42").iterdir(), reverse=True)
    assert plain.name.startswith("gen_nomit-")
    assert edited.name.startswith("gen_auginfer_rand_word_add_4-")
    assert [r["seed"] for r in rows_of(plain)] == [r["seed"] for r in rows_of(edited)]
    assert (
        [r["prompt"] for r in rows_of(plain)]
        == [r["source_prompt"] for r in rows_of(edited)]
        == ["Wall View 002", "Wall View 003"]
    )
    assert f"pairs: {(edited / 'compare.png').relative_to(tmp_path)}" in printed
    grid = Image.open(edited / "compare.png")
    for index, row in enumerate(rows_of(edited)):
        for side, folder in ((0, plain), (1, edited)):
            corner = (12 + index * 280 + side * 134, 24)
            shown = grid.crop((*corner, corner[0] + 128, corner[1] + 128)).resize(
                (16, 16), Image.Resampling.NEAREST
            )
            assert list(shown.getdata()) == list(Image.open(folder / row["file"]).getdata())
    # another mitigation shares the plain images
    assert "2 images (0 new)" in script("sd_mitigation", "--rand_noise_lam", 0.1, *common)


@pytest.mark.parametrize("of_run", [False, True])
def test_compare_shows_the_training_picture_of_each_prompt(
    script, micro_sd, micro_run, scenes_dir, tmp_path, of_run
):
    """Of a run found in its data folder, else beside the file of prompts."""
    model = micro_run if of_run else micro_sd
    drawn, given = ("--capstyle", "instancelevel_blip"), ("--prompts", scenes_dir / "captions.json")
    prompts = drawn if of_run else given
    more = ("--rand_augs", "rand_word_add", "--compare", "--savepath", tmp_path / "g", *prompts)
    script("sd_mitigation", "--modelpath", model, "-nb", 2, *FAST, *more)
    grid = Image.open(tmp_path / "g" / "compare.png")
    for index, row in enumerate(rows_of(tmp_path / "g")):
        place = scenes_dir / "train" / row["source_image"].removeprefix("train/")
        corner = (12 + index * 414, 24)
        shown = grid.crop((*corner, corner[0] + 128, corner[1] + 128))
        fitted = galleries.fitted(Image.open(place).convert("RGB"), 128)
        assert shown.tobytes() == fitted.tobytes()


def test_compare_in_a_folder_that_is_given(script, micro_sd, tmp_path):
    script(
        "sd_mitigation",
        "--rand_noise_lam",
        0.1,
        "--compare",
        "-nb",
        1,
        "--pretrained_model_name_or_path",
        micro_sd,
        "--savepath",
        tmp_path / "g",
        *FAST,
    )
    assert sorted(p.name for p in tmp_path.iterdir()) == ["g", "g-without"]
    assert (tmp_path / "g" / "compare.png").is_file()


def test_a_comparison_is_refused_before_hours_go_into_its_first_half(
    refused, script, micro_sd, tmp_path
):
    common = ("--pretrained_model_name_or_path", micro_sd, "-nb", 1, *FAST)
    assert "--compare shows what a mitigation changes, and none is on" in refused(
        "sd_mitigation", *common, "--compare"
    )
    script("sd_mitigation", *common, "--rand_noise_lam", 0.2, "--savepath", tmp_path / "g")
    for more in ((), ("--dry_run",)):
        line = refused(
            "sd_mitigation",
            *common,
            "--rand_noise_lam",
            0.1,
            "--compare",
            "--savepath",
            tmp_path / "g",
            *more,
        )
        assert "--rand_noise_lam=0.1: " in line
    assert not (tmp_path / "g-without").exists()


def test_every_flag_of_inference_is_one_of_mitigation():
    inference, both = (
        {f.name for f in dataclasses.fields(o)}
        for o in (generation_options.GenerationOptions, generation_options.MitigationOptions)
    )
    assert both - inference == {"compare"}
    assert inference <= both


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ["--rand_noise_lam", 1.5],
            "--rand_noise_lam='1.5' is not accepted; use a number from 0 to 1",
        ),
        (
            ["--rand_augs", "words"],
            "--rand_augs='words' is not accepted; use one of: rand_numb_add, rand_word_add",
        ),
        (
            ["--compare"],
            (
                "--compare shows what a mitigation changes, and none is on; give one, such as"
                " --rand_noise_lam"
            ),
        ),
        (
            ["--capstyle", "classlevel"],
            "--capstyle='classlevel' draws prompts; give their number with -nb",
        ),
        (
            ["--pretrained_model_name_or_path", "nobody/none"],
            "pass its folder with --pretrained_model_name_or_path",
        ),
    ],
)
def test_bad_input_is_one_line(refused, tmp_path, monkeypatch, flags, message):
    monkeypatch.chdir(tmp_path)
    assert message in refused("sd_mitigation", *flags)
    assert list(tmp_path.iterdir()) == []
