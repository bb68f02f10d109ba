"""diff_retrieval.py --modelpath on a miniature, from plan to files."""

import csv
import json
import shlex
import shutil

import pytest
from PIL import Image

from tests.card.conftest import MANY_COPIES, SMALL
from utils.data import scenes
from utils.files import run_folder

TRIALS = ("noise", "words", "repeats", "numbers", "late", "dynamic")
ARMS = ("training", "base", "heldout", "words", "checkpoint_2")


def read(folder):
    return json.loads((folder / "card.json").read_text())


def test_a_card_of_a_run_shows_all_sections(finished_card):
    card = read(finished_card)
    assert (card["kind"], card["version"]) == ("memorization card", 1)
    share = card["answer"]["share"]
    assert share["n"] == 20  # ten captions that were trained on, two images each
    assert 0 < share["lo"] <= share["value"] <= share["hi"] < 1
    assert [arm["name"] for arm in card["comparison"]["arms"]] == list(ARMS[:4])
    assert [moment["step"] for moment in card["course"]["moments"]] == [2, 4]
    trials = card["help"]["trials"]
    assert [trial["arm"]["name"] for trial in trials] == ["worst", *(f"worst-{t}" for t in TRIALS)]
    assert card["help"]["detectors"]["magnitude"].startswith("a copy has a higher score")
    assert "--cfg_start=650 is not below" in card["left_out"]["mitigation opposite"]
    assert card["offenders"][0]["copies"] >= card["offenders"][-1]["copies"] > 0
    assert card["provenance"]["seeds"] == {
        "prompts, noise and intervals": 0,
        "noise of the worst prompts": 1,
    }
    assert {path.name for path in finished_card.iterdir()} >= {"card.html", "card.md", "plan.json"}


def best_scores(folder, column):
    """The best score of each image of an evaluation, from its table."""
    best = {}
    with open(folder / "matches.csv", newline="") as handle:
        for row in csv.DictReader(handle):
            score = float(row[column] or "-inf")
            best[row["query"]] = max(score, best.get(row["query"], score))
    return list(best.values())


def require_shares(folder, column):
    """All shares of a card are those of its one threshold, counted by hand."""
    card = read(folder)
    threshold = card["answer"]["threshold"]
    first = json.loads((folder / "measured" / "training" / "metrics.json").read_text())
    assert threshold["value"] == first["threshold"]
    moments = [moment["arm"] for moment in card["course"]["moments"]]
    trials = [trial["arm"] for trial in (card["help"] or {"trials": []})["trials"]]
    for arm in [*card["comparison"]["arms"], *moments, *trials]:
        best = best_scores(folder / arm["evaluation"], column)
        value = sum(score > threshold["value"] for score in best) / len(best)
        assert arm["numbers"]["share"]["value"] == pytest.approx(value)
    return threshold


def test_every_share_is_judged_by_the_one_threshold(finished_card):
    threshold = require_shares(finished_card, "score")
    assert (threshold["of"], threshold["calibrated"]) == ("pixel", True)
    assert threshold["innocents"]["source"] == "base_dir"
    assert threshold["innocents"]["count"] == 20


def test_aligned_scores_decide_where_pictures_are_aligned(small_run, tmp_path, script):
    captions = json.loads((small_run / "captions.json").read_text())
    few = {key: captions[key] for key in list(captions)[:3]}
    (tmp_path / "captions.json").write_text(json.dumps(few))
    scenes.write_scenes(tmp_path / "others", count=20, seed=9, size=32)
    aligning = ("--num_candidates", "1", "--views", "plain")
    flags = (*(word for word in SMALL if word != "--no_align"), *aligning, *MANY_COPIES)
    more = ("--prompts", tmp_path / "captions.json", "--innocent_dir", tmp_path / "others", "-imb")
    rest = ("1", "--output_dir", tmp_path / "card")
    script("diff_retrieval", "--modelpath", small_run, *flags, *more, *rest)
    threshold = require_shares(tmp_path / "card", "aligned")
    assert (threshold["of"], threshold["innocents"]["source"]) == ("aligned", "innocent_dir")
    card = read(tmp_path / "card")
    copies = [each for offender in card["offenders"] for each in offender["returned"]]
    assert all(len(each["alignment"]["box_image"]) == 4 for each in copies)


def test_the_base_model_sees_the_same_prompts_and_seeds(finished_card):
    def rows(name):
        path = finished_card / "images" / name / "manifest.json"
        return json.loads(path.read_text())["images"]

    def seen(name, *keys):
        return [[row[key] for key in keys] for row in rows(name)]

    assert seen("training", "prompt", "seed") == seen("base", "prompt", "seed")
    assert seen("training", "seed") == seen("words", "seed")
    assert seen("training", "source_prompt") != seen("words", "source_prompt")
    # the worst prompts get other noise: they were chosen by their copies under the first one
    first = {seed for (seed,) in seen("training", "seed")}
    assert not first & {seed for (seed,) in seen("worst", "seed")}
    assert seen("worst", "prompt", "seed") == seen("worst-noise", "prompt", "seed")


def test_run_again_nothing_is_made_twice(card_copy, small_run, script):
    before = {p: p.stat().st_mtime_ns for p in card_copy.rglob("*.png") if p.name != "course.png"}
    first = read(card_copy)
    again = (*MANY_COPIES, "--output_dir", card_copy)
    out = script("diff_retrieval", "--modelpath", small_run, *SMALL, *again)
    assert "$ python" not in out
    assert "(20 new)" not in out
    assert before == {p: p.stat().st_mtime_ns for p in before}
    second = read(card_copy)
    assert second["effort"]["images_new"] == 0
    for part in ("answer", "offenders"):
        assert first[part] == second[part]


def test_a_card_that_was_interrupted_goes_on(card_copy, small_run, script):
    """Killed after half of an arm's images and before its evaluation."""
    images = card_copy / "images" / "words"
    manifest = json.loads((images / "manifest.json").read_text())
    kept, lost = manifest["images"][:12], manifest["images"][12:]
    lines = [manifest["settings"], *kept]
    (images / "manifest.jsonl.part").write_text("".join(json.dumps(x) + "\n" for x in lines))
    (images / "manifest.json").unlink()
    pictures = [(images / row["file"]).read_bytes() for row in lost]
    for row in lost:
        (images / row["file"]).unlink()
    shutil.rmtree(card_copy / "measured" / "words")
    (card_copy / "card.json").unlink()
    again = (*MANY_COPIES, "--output_dir", card_copy)
    out = script("diff_retrieval", "--modelpath", small_run, *SMALL, *again)
    assert out.count("$ python diff_inference.py") == out.count("$ python diff_retrieval.py") == 1
    assert "20 images (8 new)" in out
    assert read(card_copy)["effort"]["images_new"] == 8
    assert [(images / row["file"]).read_bytes() for row in lost] == pictures


def test_other_settings_do_not_continue_a_card(card_copy, small_run, refused):
    for flags, name in (
        (("--seed", "1"), "seed"),
        (("--copy_threshold", "0.3"), "copy_threshold"),
        (("--budget", "5"), "budget"),
    ):
        given = (*MANY_COPIES, "--output_dir", card_copy, *flags)
        line = refused("diff_retrieval", "--modelpath", small_run, *SMALL, *given)
        assert f"holds a card with another --{name}; use the same value" in line


def test_the_gate_ends_with_status_3_if_the_lower_bound_is_above(
    card_copy, small_run, script, capsys
):
    import diff_retrieval

    given = ["--modelpath", small_run, *SMALL, *MANY_COPIES, "--gate"]
    given += ["--output_dir", card_copy]
    with pytest.raises(SystemExit) as ended:
        diff_retrieval.main([str(word) for word in given])
    assert ended.value.code == 3
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert "--gate: at least" in line
    assert "more than --max_copy_share=0.02" in line
    gate = read(card_copy)["answer"]["gate"]
    assert not gate["passed"]
    out = script("diff_retrieval", *given, "--max_copy_share", "0.9")
    assert "card: " in out
    assert read(card_copy)["answer"]["gate"]["passed"]


def test_a_model_of_mostly_black_images_does_not_pass_the_gate(card_copy, small_run, capsys):
    """A broken model copies nothing; without a verdict of its own it would pass."""
    import diff_retrieval

    images = card_copy / "images" / "training"
    rows = json.loads((images / "manifest.json").read_text())["images"]
    for row in rows[:15]:
        Image.new("RGB", (16, 16)).save(images / row["file"])
    shutil.rmtree(card_copy / "measured" / "training")
    given = ["--modelpath", small_run, *SMALL, *MANY_COPIES, "--gate", "--max_copy_share", "1"]
    with pytest.raises(SystemExit) as ended:
        diff_retrieval.main([str(word) for word in [*given, "--output_dir", card_copy]])
    assert ended.value.code == 3
    void = "This verdict is void: 15 of 20 images made from training captions show nothing"
    printed = capsys.readouterr()
    assert f"--gate: {void}" in printed.err
    assert f"\n{void}" in printed.out
    answer = read(card_copy)["answer"]
    assert (answer["void"], answer["share"], answer["gate"]["passed"]) == (True, None, False)
    assert read(card_copy)["left_out"]["images of training"].startswith(
        "generated images that show"
    )
    for name in ("card.html", "card.md"):
        page = (card_copy / name).read_text()
        assert void in page
        assert "Gate failed: the verdict is void; the command ended with status 3." in page
        assert "Under the limit" not in page


def test_the_commands_of_the_card_are_those_that_were_run(card_copy, script):
    """Pasted, they find their images, and measure to the same numbers."""
    arm = read(card_copy)["comparison"]["arms"][0]
    generate, evaluate = (shlex.split(line) for line in arm["commands"])
    original = generate[generate.index("--savepath") + 1].removesuffix("/images/training")
    generate, evaluate = (
        [word.replace(original, str(card_copy)) for word in words] for words in (generate, evaluate)
    )
    assert "20 images (0 new)" in script("diff_inference", *generate[2:])
    before = json.loads((card_copy / arm["evaluation"] / "metrics.json").read_text())
    script("diff_retrieval", *evaluate[2:], "--cache_dir", "none")
    after = json.loads((card_copy / arm["evaluation"] / "metrics.json").read_text())
    assert before["sim_mean"] == after["sim_mean"]


def test_a_budget_reduces_the_card_and_says_so(small_run, no_copies, tmp_path, script):
    flags = ("--budget", "0.35", *no_copies, "--output_dir", tmp_path / "card")
    out = script("diff_retrieval", "--modelpath", small_run, *SMALL, *flags)
    assert "the card needs up to" in out
    assert "an estimate from" in out
    assert "--budget=0.35 reduces 224 images to" in out
    card = read(tmp_path / "card")
    assert card["answer"]["share"]["n"] < 20
    assert card["effort"]["images_new"] == card["effort"]["images"]
    # nothing is a copy: there is nothing to mitigate, and nothing to advise
    assert card["help"] is None
    assert card["left_out"]["help"] == "no image of a training caption is a copy"
    assert card["advice"] == []


def test_images_that_exist_are_used(small_run, no_copies, scenes_dir, tmp_path, script):
    """As the quickstart: the same generation was made before, at the place of the card's."""
    flags = ("--num_inference_steps", "2", "--resolution", "16", "--seed", "0")
    made = ("--prompts", scenes_dir / "captions.json", "-imb", "2", "--detect", "magnitude")
    place = tmp_path / "card" / "images" / "training"
    script("diff_inference", "--modelpath", small_run, *made, *flags, "--savepath", place)
    given = ("--prompts", scenes_dir / "captions.json", "--output_dir", tmp_path / "card")
    limits = (*no_copies, "--budget", "0.35")
    out = script("diff_retrieval", "--modelpath", small_run, *SMALL, *given, *limits)
    assert "24 of them exist" in out
    assert "24 images (0 new)" in out
    card = read(tmp_path / "card")
    assert card["answer"]["share"]["n"] == 24  # an arm that exists is not reduced
    assert card["comparison"]["arms"][1]["images"] < 24
    assert card["effort"]["images_new"] == card["effort"]["images"] - 24


def test_any_pipeline_with_a_folder_of_pictures(
    micro_sd, no_copies, scenes_dir, tmp_path, script, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    given = ("--modelpath", micro_sd, "--val_dir", scenes_dir / "train", "--resolution", "16")
    prompts = ("--prompts", scenes_dir / "captions.json", *no_copies)
    out = script("diff_retrieval", *given, *prompts, *SMALL)
    assert "the memorization card will be in card" in out
    card = read(tmp_path / "card")
    assert [arm["name"] for arm in card["comparison"]["arms"]] == ["training", "words"]
    assert card["left_out"]["base"].endswith("name it with --base_model")
    assert "course" in card["left_out"]
    assert card["course"] is None


def test_lora_weights_are_compared_with_their_base_model(
    micro_sd, lora, no_copies, scenes_dir, tmp_path, script
):
    given = ("--modelpath", lora, "--base_model", micro_sd, "--val_dir", scenes_dir / "train")
    more = ("--prompts", scenes_dir / "captions.json", "--resolution", "16", "--budget", "0.4")
    rest = (*SMALL, *no_copies, "--output_dir", tmp_path / "card")
    script("diff_retrieval", *given, *more, *rest)
    training, base, _ = read(tmp_path / "card")["comparison"]["arms"]
    assert f"--lora {lora}" in training["commands"][0]
    assert "--lora" not in base["commands"][0]


def test_an_index_stands_for_the_pictures(small_run, scenes_dir, tmp_path, script):
    index, given = tmp_path / "index", ("--pt_style", "pixel", "--num_workers", "0")
    script("diff_retrieval", "--val_dir", scenes_dir / "train", "--build_index", index, *given)
    flags = ("--val_dir", index, "--copy_threshold", "0.1", "--budget", "0.35")
    rest = (*SMALL, "--output_dir", tmp_path / "card")
    script("diff_retrieval", "--modelpath", small_run, *flags, *rest)
    assert read(tmp_path / "card")["offenders"]


def test_a_dry_run_shows_the_plan_and_writes_nothing(small_run, tmp_path, script):
    given = ("--dry_run", "--output_dir", tmp_path / "card")
    out = json.loads(script("diff_retrieval", "--modelpath", small_run, *SMALL, *given))
    assert out["images"]["training"] == 20
    assert len(out["commands"]) == len(ARMS) + 1 + len(TRIALS)
    assert not (tmp_path / "card").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--modelpath", "MODEL"), "holds no run.json that names its training images; name their"),
        (("--modelpath", "absent/model"), "name their folder with --val_dir"),
        (("--modelpath", "RUN", "--val_dir", "EMPTY"), "holds no images"),
        (("--modelpath", "RUN", "--val_dir", "BROKEN"), "none of its 1 images can be read"),
        (("--modelpath", "RUN", "--prompts", "FOREIGN"), "none of its 1 prompts is the caption"),
        (("--modelpath", "RUN", "--prompts", "UNKEYED"), "none of the 1 images that it names"),
        (("--modelpath", "MODEL", "--val_dir", "DATA"), "give a captions file with --prompts"),
        (("--modelpath", "LORA", "--val_dir", "DATA"), "holds LoRA weights; name the model"),
        (("--modelpath", "RUN", "--base_model", "absent"), "--pretrained_model_name_or_path="),
        (("--modelpath", "RUN", "--resolution", "17"), "--resolution=17 is not accepted"),
        (("--modelpath", "RUN", "--budget", "0"), "--budget='0' is not accepted"),
        (("--modelpath", "RUN", "--query_dir", "q"), "--query_dir='q' does not go with"),
        (("--modelpath", "RUN", "--dedup"), "--dedup does not go with --modelpath"),
        (
            ("--val_dir", "DATA", "--query_dir", "DATA", "--gate"),
            "--gate applies to a memorization",
        ),
        (("--modelpath", "RUN", "--pt_style", "sscd", "--weights", "none.pt"), "none.pt"),
        (("--modelpath", "RUN", "--output_dir", "DATA"), "which no memorization card wrote"),
        (("--modelpath", "RUN", "--output_dir", "DATA/new"), "lies in the training images"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(
    flags, message, small_run, micro_sd, lora, scenes_dir, tmp_path, refused, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    places = {"RUN": small_run, "MODEL": micro_sd, "LORA": lora, "DATA": scenes_dir / "train"}
    for name in ("EMPTY", "BROKEN"):
        (tmp_path / name).mkdir()
    (tmp_path / "BROKEN" / "a.png").write_bytes(b"no picture")
    (tmp_path / "foreign.txt").write_text("a caption of nothing\n")
    (tmp_path / "unkeyed.json").write_text('{"nowhere/x.png": ["a caption"]}')
    places |= {"FOREIGN": "foreign.txt", "UNKEYED": "unkeyed.json"}
    before = sorted(tmp_path.rglob("*"))
    words = [
        str(places.get(w.split("/")[0], w.split("/")[0])) + w[len(w.split("/")[0]) :] for w in flags
    ]
    if "--pt_style" not in words and "--val_dir" not in words[:1]:
        words += ["--pt_style", "pixel"]
    assert message in refused("diff_retrieval", *words)
    assert sorted(tmp_path.rglob("*")) == before
    assert not (small_run / "card").exists()


def test_a_run_whose_data_have_moved(small_run, tmp_path, refused, script, scenes_dir):
    run = shutil.copytree(small_run, tmp_path / "elsewhere" / "run")
    record = json.loads((run / "run.json").read_text())
    record["places"]["instance_data_dir"] = "../gone"
    (run / "run.json").write_text(json.dumps(record))
    line = refused("diff_retrieval", "--modelpath", run, *SMALL)
    assert "are not in" in line
    assert "name their folder with --val_dir" in line
    moved = shutil.copytree(scenes_dir / "train", tmp_path / "moved")
    given = ("--val_dir", moved, "--dry_run")
    planned = json.loads(script("diff_retrieval", "--modelpath", run, *SMALL, *given))
    assert planned["images"]["training"] == 20
    assert run_folder.open_run("--modelpath", run) is not None


def test_a_base_model_that_is_gone_is_left_out(small_run, tmp_path, script):
    run = shutil.copytree(small_run, tmp_path / "run")
    record = json.loads((run / "run.json").read_text())
    record["options"]["pretrained_model_name_or_path"] = "gone/model"
    record["places"]["instance_data_dir"] = str(
        run_folder.open_run("--modelpath", small_run).located("instance_data_dir")
    )
    (run / "run.json").write_text(json.dumps(record))
    out = json.loads(script("diff_retrieval", "--modelpath", run, *SMALL, "--dry_run"))
    assert "base" not in out["images"]
    assert out["left_out"]["base"].startswith("the base model cannot be used: ")
