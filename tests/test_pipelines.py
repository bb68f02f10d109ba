"""The table of docs/mitigations.md: every pipeline with every mitigation, through the script, from
a folder on disk."""

import json
import re

import numpy as np
import pytest
from PIL import Image

from tests.conftest import ROOT
from tests.pipelines import MINIATURES, flux, miniature

FLAGS = {
    "GNI": ("--rand_noise_lam", 0.8),
    "RT": ("--rand_augs", "rand_word_add"),
    "CWR": ("--rand_augs", "rand_word_repeat"),
    "RNA": ("--rand_augs", "rand_numb_add"),
    "static": ("--cfg_start", 500, "--cfg_before", -2),
    "dynamic": ("--cfg_start", "auto"),
}
EXTRA = {"yes": (), "with `--negative_prompt`": ("--negative_prompt", "")}


def cells():
    """(pipeline, mitigation, content) of every cell."""
    text = (ROOT / "docs" / "mitigations.md").read_text()
    head, *rows = re.findall(
        r"^\|(.*)\|$", text[text.index("| pipeline |") :].split("\n\n")[0], re.MULTILINE
    )
    names = [c.strip() for c in head.split("|")][1:]
    for row in rows[1:]:
        pipeline, *support = (c.strip() for c in row.split("|"))
        yield from ((pipeline, name, word) for name, word in zip(names, support, strict=True))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folders = {}

    def of(name):
        if name not in folders:
            folders[name] = tmp_path_factory.mktemp("miniatures") / "model"
            miniature(name).save_pretrained(folders[name])
        return folders[name]

    return of


def generate(script, model, out, *flags):
    script(
        "diff_inference",
        "--modelpath",
        model,
        "--prompt",
        "a red circle",
        "--resolution",
        16,
        "--savepath",
        out,
        "--num_inference_steps",
        4,
        *flags,
    )
    record = json.loads((out / "manifest.json").read_text())
    return np.asarray(Image.open(out / "generations" / "0.png"), float), record


def test_the_table_is_whole():
    assert {(p, m) for p, m, _ in cells()} == {(p, m) for p in MINIATURES for m in FLAGS}
    assert {support for *_, support in cells()} <= set(EXTRA)


@pytest.mark.parametrize(("pipeline", "mitigation", "support"), list(cells()))
def test_a_cell_of_the_table(script, refused, folder, tmp_path, pipeline, mitigation, support):
    model = folder(pipeline)
    if EXTRA[support]:
        line = refused(
            "diff_inference",
            "--modelpath",
            model,
            "--prompt",
            "x",
            "--resolution",
            16,
            *FLAGS[mitigation],
        )
        assert "--cfg_start needs an unconditional branch" in line
    plain, record = generate(script, model, tmp_path / "plain", *EXTRA[support])
    assert record["pipeline"] == type(miniature(pipeline)).__name__
    changed, record = generate(
        script, model, tmp_path / "changed", *EXTRA[support], *FLAGS[mitigation]
    )
    assert np.abs(plain - changed).max() > 0
    row = record["images"][0]
    assert (row["prompt"] != row["source_prompt"]) == (mitigation in ("RT", "CWR", "RNA"))
    assert ("guided_from" in row) == (mitigation == "dynamic")


def test_images_that_were_never_guided_are_counted(script, folder, tmp_path):
    printed = script(
        "diff_inference",
        "--modelpath",
        folder("SD 1"),
        "--prompt",
        "x",
        "-nb",
        3,
        "--resolution",
        16,
        "--cfg_start",
        "auto",
        "--num_inference_steps",
        1,
        "--savepath",
        tmp_path / "g",
    )
    assert "3 of 3 images kept --cfg_before to the end" in printed  # one step has no minimum


def test_where_there_is_no_unconditional_branch_noise_goes_onto_the_conditional_one_and_this_is_said(
    script, folder, tmp_path
):
    printed = script(
        "diff_inference",
        "--modelpath",
        folder("Flux"),
        "--prompt",
        "x",
        "--resolution",
        16,
        "--rand_noise_lam",
        0.1,
        "--num_inference_steps",
        1,
        "--savepath",
        tmp_path / "g",
    )
    assert (
        "without an unconditional branch: --rand_noise_lam adds noise to the conditional one only"
        in printed
    )


def test_a_base_model_of_another_family_keeps_its_scheduler_and_its_defaults(
    script, folder, tmp_path
):
    script(
        "diff_inference",
        "--pretrained_model_name_or_path",
        folder("SD 3"),
        "--prompt",
        "x",
        "--savepath",
        tmp_path / "g",
    )
    record = json.loads((tmp_path / "g" / "manifest.json").read_text())
    assert record["scheduler"] == "FlowMatchEulerDiscreteScheduler"
    assert (record["settings"]["num_inference_steps"], record["settings"]["guidance_scale"]) == (
        28,
        7.0,
    )
    # its own: 8 latents of 2 pixels
    assert Image.open(tmp_path / "g" / "generations" / "0.png").size == (16, 16)


@pytest.mark.parametrize(
    ("pipeline", "flags", "message"),
    [
        ("SD 3", ["--resolution", 18], "--resolution=18 is not accepted; use a multiple of 4"),
        ("Flux", ["--resolution", 18], "--resolution=18 is not accepted; use a multiple of 4"),
        ("SDXL", ["--resolution", 18], "--resolution=18 is not accepted; use a multiple of 8"),
        (
            "Flux",
            ["--scheduler", "DDIM"],
            "--scheduler='DDIM' is unknown; choose one of: FlowMatchEulerDiscrete",
        ),
        (
            "SD 1",
            ["--cfg_start", "auto", "--scheduler", "HeunDiscrete"],
            "--cfg_start='auto' compares steps, and this scheduler",
        ),
        (
            "SD 1",
            ["--cfg_start", 1000],
            "--cfg_start=1000 is not below the first timestep; use auto, or a number from 0 to below 981",
        ),
        (
            "SD 1",
            ["--scheduler", "LCM", "--num_inference_steps", 60],
            "--num_inference_steps=60 is too many for LCM",
        ),
        (
            "SD 1",
            ["--guidance_scale", 1, "--cfg_start", 500],
            "--cfg_start needs an unconditional branch",
        ),
        (
            "SD 1",
            ["--guidance_scale", 1, "--negative_prompt", "x"],
            "--negative_prompt='x' has no effect",
        ),
    ],
)
def test_what_a_pipeline_does_not_take_is_said_before_it_loads(
    refused, folder, tmp_path, pipeline, flags, message
):
    line = refused(
        "diff_inference",
        "--modelpath",
        folder(pipeline),
        "--prompt",
        "x",
        "--resolution",
        16,
        "--savepath",
        tmp_path / "g",
        *flags,
    )
    assert re.search(message, line)
    assert not (tmp_path / "g").exists()


def test_a_network_without_guidance_scale_says_so(refused, tmp_path):
    flux(guidance_embeds=False).save_pretrained(tmp_path / "schnell")
    line = refused(
        "diff_inference",
        "--modelpath",
        tmp_path / "schnell",
        "--prompt",
        "x",
        "--guidance_scale",
        3,
    )
    assert (
        "--guidance_scale=3 has no effect: this network takes no scale; with --negative_prompt"
        in line
    )


def test_a_pipeline_of_another_kind_is_refused_by_its_class(refused, tmp_path):
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "KandinskyPipeline"}))
    line = refused("diff_inference", "--modelpath", tmp_path, "--prompt", "x")
    assert (
        "is a KandinskyPipeline; use one of: StableDiffusionPipeline, StableDiffusionXLPipeline"
        in line
    )


def test_before_a_detected_transition_the_prompt_is_used_without_guidance(script, folder, tmp_path):
    """The published code's scale there is 1; before a given timestep the published scale is 0."""
    shared = ("--modelpath", folder("SD 1"), "--prompt", "x", "-nb", 1, "--resolution", 16)
    scales = {}
    for start, explicit in (("auto", 1), (500, 0)):
        pictures = []
        for extra in ((), ("--cfg_before", explicit)):
            out = tmp_path / f"{start}{len(extra)}"
            script(
                "diff_inference",
                *shared,
                "--cfg_start",
                start,
                "--num_inference_steps",
                2,
                *extra,
                "--savepath",
                out,
            )
            record = json.loads((out / "manifest.json").read_text())
            scales[start] = record["settings"]["cfg_before"]
            pictures.append((out / "generations" / "0.png").read_bytes())
        assert pictures[0] == pictures[1]
    assert scales == {"auto": 1.0, 500: 0.0}


def test_the_length_of_a_prompt_is_a_setting_of_the_images(script, refused, folder, tmp_path):
    usual, record = generate(script, folder("Flux"), tmp_path / "usual")
    assert "max_sequence_length" not in record["settings"]
    named, record = generate(
        script, folder("Flux"), tmp_path / "named", "--max_sequence_length", 512
    )
    assert "max_sequence_length" not in record["settings"]
    assert np.array_equal(usual, named)
    short, record = generate(
        script, folder("Flux"), tmp_path / "short", "--max_sequence_length", 20
    )
    assert record["settings"]["max_sequence_length"] == 20
    assert np.abs(usual - short).max() > 0
    line = refused(
        "diff_inference",
        *("--modelpath", folder("SD 1"), "--prompt", "x", "--resolution", 16),
        *("--max_sequence_length", 20),
    )
    assert "is the number of tokens of T5" in line
