import dataclasses
import json
import re

import numpy as np
import pytest
import torch

from tests.conftest import ROOT
from tests.pipelines import MINIATURES, embed, miniature
from utils.cli import flags, generation_options
from utils.files import generation_folder, whole_files
from utils.generation import detectors, mitigations, sampling
from utils.generation.denoiser_hook import Prediction
from utils.generation.sampling import Prompt
from utils.retrieval import evaluation_inputs
from utils.runtime.errors import DataError


def magnitude(steps=None):
    return detectors.chosen(["magnitude"], {"detect_steps": steps})


def prediction(conditional, unconditional, *, factor=1.0, flow=False):
    c, u = (torch.tensor(v)[:, :, None] for v in (conditional, unconditional))
    return Prediction(torch.zeros_like(c), 1.0, c, u, factor, flow)


def scores(chosen, *predictions):
    """The scores of a batch whose evaluations were these, by detector."""
    hook = detectors.Detection(chosen)
    assert all(hook(p) is p for p in predictions)
    return [note["detections"] for note in hook.report()]


def test_the_magnitude_by_hand():
    """Two images; ||(3, 4)|| = 5 and ||(0, 2)|| = 2, then ||(6, 8)|| = 10 and 0."""
    first = prediction([[4.0, 4.0], [1.0, 3.0]], [[1.0, 0.0], [1.0, 1.0]])
    second = prediction([[6.0, 8.0], [2.0, 2.0]], [[0.0, 0.0], [2.0, 2.0]])
    assert scores(magnitude(), first, second) == [{"magnitude": 7.5}, {"magnitude": 1.0}]
    assert scores(magnitude(1), first, second) == [{"magnitude": 5.0}, {"magnitude": 2.0}]
    assert scores(magnitude(2), first, second) == scores(magnitude(9), first, second)


def test_the_magnitude_is_that_of_the_noise_except_for_a_flow():
    c, u = [[3.0, 4.0]], [[0.0, 0.0]]
    assert scores(magnitude(), prediction(c, u, factor=0.5)) == [{"magnitude": 2.5}]
    assert scores(magnitude(), prediction(c, u, factor=-2.0)) == [{"magnitude": 10.0}]
    assert scores(magnitude(), prediction(c, u, factor=0.0, flow=True)) == [{"magnitude": 5.0}]


def test_the_difference_is_taken_in_float32():
    """512 - 1 in bfloat16 is 512."""
    full = prediction([[512.0]], [[1.0]])
    half = dataclasses.replace(
        full, conditional=full.conditional.bfloat16(), unconditional=full.unconditional.bfloat16()
    )
    assert scores(magnitude(), half) == [{"magnitude": 511.0}]


def generated(pipeline, chosen, *, batch_size=2, steps=3, **given):
    off = {"rand_noise_lam": 0.0, "rand_augs": None, "rand_aug_repeats": 2}
    values = off | {"cfg_start": None, "cfg_before": 0.0} | given
    hooks = mitigations.SampleHooks(mitigations.chosen(values), detectors=chosen)
    prompts = [Prompt("a red circle"), Prompt("b")]
    jobs = list(sampling.image_jobs(prompts, hooks, images_per_prompt=1, seed=1))
    negative = "blue" if type(pipeline).__name__ == "FluxPipeline" else None
    settings = sampling.SampleSettings(steps, 3.0, 16, negative)
    images = sampling.generate(
        pipeline, jobs, settings=settings, hooks=hooks, batch_size=batch_size, device="cpu"
    )
    return list(images)


@pytest.mark.parametrize("name", MINIATURES)
def test_images_are_the_same_to_the_bit_with_and_without_a_detector(name):
    pipeline = miniature(name)
    plain, watched = generated(pipeline, {}), generated(pipeline, magnitude())
    for before, after in zip(plain, watched, strict=True):
        assert np.array_equal(np.asarray(before.image), np.asarray(after.image))
        assert before.notes == {}
        assert after.notes["detections"]["magnitude"] > 0
    alone = generated(pipeline, magnitude(), batch_size=1)
    for one, two in zip(alone, watched, strict=True):
        assert one.notes["detections"] == pytest.approx(two.notes["detections"], rel=1e-3)
    assert len({image.notes["detections"]["magnitude"] for image in watched}) == 2


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_the_magnitude_agrees_with_a_loop_written_by_hand(micro_parts, kind):
    parts = micro_parts(kind)
    pipeline = parts.assemble()
    of_all = generated(pipeline, magnitude(), steps=5)
    first_two = generated(pipeline, magnitude(2), steps=5)
    scheduler = pipeline.scheduler
    for image, of_two in zip(of_all, first_two, strict=True):
        text, norms = [image.job.prompt, ""], []
        with torch.no_grad():
            e = embed(parts, text)
            x = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(image.job.seed))
            scheduler.set_timesteps(5)
            for t in scheduler.timesteps:
                c, u = parts.denoiser(
                    x.repeat(2, 1, 1, 1), t, encoder_hidden_states=e
                ).sample.chunk(2)
                alpha = float(scheduler.alphas_cumprod[t])
                norms.append(float((c - u).norm()) * (1 if kind == "epsilon" else alpha**0.5))
                x = scheduler.step(u + 3.0 * (c - u), t, x).prev_sample
        assert image.notes["detections"]["magnitude"] == pytest.approx(sum(norms) / 5, rel=1e-3)
        assert of_two.notes["detections"]["magnitude"] == pytest.approx(
            sum(norms[:2]) / 2, rel=1e-3
        )


def test_a_detector_sees_the_predictions_before_a_mitigation_changes_them():
    """With guidance 0 throughout, both branches are the same after the mitigation."""
    pipeline = miniature("SD 1")
    plain = generated(pipeline, magnitude(1))
    mitigated = generated(pipeline, magnitude(1), cfg_start=0.0)
    assert [image.notes for image in plain] == [image.notes for image in mitigated]
    automatic = generated(pipeline, magnitude(1), cfg_start="auto")
    assert all(set(image.notes) == {"detections", "guided_from"} for image in automatic)


def test_settings_hold_the_detectors_that_are_on_and_nothing_else():
    assert detectors.settings((), {"detect_steps": None}) == {}
    assert detectors.settings(("magnitude",), {"detect_steps": 3, "other": 1}) == {
        "detect": "magnitude",
        "detect_steps": 3,
    }
    assert detectors.chosen((), {"detect_steps": None}) == {}
    assert "detect" not in mitigations.without()


FAST = ("--num_inference_steps", 2, "--resolution", 16)


def manifest(folder):
    return json.loads((folder / "manifest.json").read_text())


def test_scores_stand_in_the_manifest_and_reach_the_evaluations_queries(
    script, micro_run, tmp_path
):
    common = ("--modelpath", micro_run, "-nb", 2, "-imb", 2, *FAST)
    script("diff_inference", *common, "--detect", "magnitude", "--savepath", tmp_path / "g")
    data = manifest(tmp_path / "g")
    assert data["settings"]["detect"] == "magnitude"
    expected = {row["file"]: row["detections"] for row in data["images"]}
    assert all(set(detections) == {"magnitude"} for detections in expected.values())
    _, queries, _ = evaluation_inputs.read_queries(tmp_path / "g", say=print)
    assert {query.key: query.detections for query in queries} == expected
    script("diff_inference", *common, "--savepath", tmp_path / "plain")
    assert not any("detections" in row for row in manifest(tmp_path / "plain")["images"])
    assert "detect" not in manifest(tmp_path / "plain")["settings"]
    _, queries, _ = evaluation_inputs.read_queries(tmp_path / "plain", say=print)
    assert all(query.detections == {} for query in queries)


def test_the_published_part_of_the_folders_name_is_the_same(
    script, micro_sd, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    common = ("--modelpath", micro_sd, "--prompt", "x", *FAST)
    script("diff_inference", *common)
    script("diff_inference", *common, "--detect", "magnitude")
    names = sorted(p.name for p in (tmp_path / "inferences" / micro_sd.name).iterdir())
    assert [re.sub(r"-[0-9a-f]{8}$", "", name) for name in names] == ["gen_nomit"] * 2


def test_a_continued_generation_keeps_its_scores(script, refused, micro_run, tmp_path, monkeypatch):
    command = ("--modelpath", micro_run, "-nb", 5, "--batch_size", 2, *FAST)
    detect = ("--detect", "magnitude", "--detect_steps", 1)
    script("diff_inference", *command, *detect, "--savepath", tmp_path / "whole")
    save = generation_folder.Generation._save_image

    def killed_at_three(self, image):
        if image.job.index == 3:
            raise KeyboardInterrupt
        return save(self, image)

    with monkeypatch.context() as patch:
        patch.setattr(generation_folder.Generation, "_save_image", killed_at_three)
        with pytest.raises(SystemExit):
            script("diff_inference", *command, *detect, "--savepath", tmp_path / "broken")
    lines = (tmp_path / "broken" / "manifest.jsonl.part").read_text().splitlines()[1:]
    saved = {row["index"]: row["detections"]["magnitude"] for row in map(json.loads, lines)}
    assert saved
    line = refused("diff_inference", *command, "--savepath", tmp_path / "broken")
    assert "--detect was not given: " in line
    script("diff_inference", *command, *detect, "--savepath", tmp_path / "broken")
    whole, broken = (
        [row["detections"]["magnitude"] for row in manifest(tmp_path / name)["images"]]
        for name in ("whole", "broken")
    )
    assert broken == pytest.approx(whole, rel=1e-3)
    assert {index: broken[index] for index in saved} == saved


def test_compare_scores_both_halves(script, micro_sd, tmp_path):
    script(
        "sd_mitigation",
        "--rand_noise_lam",
        0.5,
        "--compare",
        "--detect",
        "magnitude",
        "-nb",
        2,
        "--pretrained_model_name_or_path",
        micro_sd,
        "--savepath",
        tmp_path / "g",
        *FAST,
    )
    plain, mitigated = manifest(tmp_path / "g-without"), manifest(tmp_path / "g")
    assert plain["settings"]["detect"] == mitigated["settings"]["detect"] == "magnitude"
    for before, after in zip(plain["images"], mitigated["images"], strict=True):
        assert before["detections"]["magnitude"] != after["detections"]["magnitude"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            ["--detect", "magnitude", "--guidance_scale", 1],
            "--detect='magnitude' needs an unconditional branch, and this pipeline runs without one",
        ),
        (["--detect", "nothing"], "--detect='nothing' is not accepted; use"),
        (
            ["--detect_steps", 2],
            "--detect_steps=2 is the number of evaluations that --detect averages",
        ),
        (["--detect", "magnitude", "--detect_steps", 0], "--detect_steps='0' is not accepted"),
    ],
)
def test_bad_input_is_one_line(refused, micro_run, tmp_path, given, message):
    folder = tmp_path / "g"
    command = ("--modelpath", micro_run, "-nb", 1, "--savepath", folder, *FAST, *given)
    assert message in refused("diff_inference", *command)
    assert not folder.exists()


def test_the_example_of_the_documentation_runs(monkeypatch):
    """From the command line to the scores, with the option declared as the page says."""
    text = (ROOT / "docs" / "mitigations.md").read_text()
    section = text[text.index("### Adding a detector") :]
    declared, code = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    monkeypatch.setattr(detectors, "DETECTORS", dict(detectors.DETECTORS))
    names = vars(generation_options) | vars(detectors)
    lines = ["@dataclass(frozen=True, kw_only=True)", "class Longer(GenerationOptions):", declared]
    exec("\n".join(lines) + code, names)
    given = ["--prompt", "x", "--detect_scale", "3"]
    values = vars(flags.parse(names["Longer"], given, description=""))
    assert "detect_scale" in detectors.flag_names()
    chosen = detectors.chosen(("power", "magnitude"), values)
    # mean of (1 + 3 (2 - 1))^2 and (0 + 3 (0 - 0))^2; the norm of (1, 0)
    evaluation = prediction([[2.0, 0.0]], [[1.0, 0.0]])
    assert scores(chosen, evaluation, evaluation) == [{"magnitude": 1.0, "power": 8.0}]
    assert detectors.settings(("power",), values) == {"detect": "power", "detect_scale": 3.0}


@pytest.mark.parametrize("wrong", [3, ["a"], {"magnitude": "high"}, {"magnitude": None}])
def test_scores_that_are_not_numbers_are_an_error_that_names_the_image(tmp_path, wrong):
    row = {"file": "0.png", "prompt": "x", "source_prompt": "x", "detections": wrong}
    whole_files.write_manifest(tmp_path / "manifest.json", "generation", images=[row])
    with pytest.raises(DataError, match="image 0 has 'detections' that are not numbers by name"):
        generation_folder.read_queries_manifest(tmp_path)
