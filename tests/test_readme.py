"""Every command of README.md and of the fenced bash blocks in docs/ is run, scaled down: a small
model for the named one, few steps, folders of the test."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys

import pytest

from tests import tars
from tests.captioning.conftest import save_blip
from tests.conftest import ROOT
from tests.indices import image_index
from tests.launchers import launched, torchrun
from tests.pipelines import miniature
from utils.data.image_sets import list_images
from utils.data.scenes import write_scenes

PLACEHOLDERS = {"<duplication_style>": "dup_image", "<conditioning_style>": "instancelevel_blip"}
# what is cut or replaced, by script; everything else of a command stays as it is printed
SCALED = {
    "diff_train.py": {
        "--pretrained_model_name_or_path": "TINY",
        "--resolution": "64",
        "--train_batch_size": "2",
        "--max_train_steps": "3",
        "--save_steps": "2",
        "--modelsavesteps": "2",
        "--lr_warmup_steps": "1",
        "--sample_batch_size": "1",
        "--num_workers": "0",
        "--report_to": "none",
    },
    "diff_inference.py": {"--num_inference_steps": "2", "-nb": "3"},
    "sd_mitigation.py": {"--num_inference_steps": "2", "-nb": "2", "--resolution": "16"},
    "diff_retrieval.py": {
        "--num_workers": "0",
        "--report_to": "none",
        "--metrics": "similarity,background",
        "--num_candidates": "1",
    },
    "-m utils.data.scenes": {"--count": "3", "--out": "scenes"},
    "-m utils.captioning": {"--captioner": "CAPTIONER", "--num_captions": "2", "-j": "0"},
}


CUT = {"--total_round": "2", "--copy_check_prompts": "2"}  # where a command has it
OF_INDEX = {"--metrics": "similarity"}  # an index knows nothing of training images among themselves
# which are of an evaluation, where an index is made or looked at alone
NOT_OF_INDEX = ("--metrics", "--num_candidates")


# of a memorization card, which generates, too
OF_CARDS = {
    "--num_inference_steps": "1",
    "-imb": "1",
    "--resolution": "16",
    "--metrics": "similarity",
    "--views": "plain",
    "--num_candidates": "1",
    "--budget": "0.3",
}

# models of other families stand for themselves: {name: miniature}
OF_FAMILIES = {
    "stabilityai/stable-diffusion-xl-base-1.0": "SDXL",
    "stabilityai/stable-diffusion-3.5-medium": "SD 3.5",
    "black-forest-labs/FLUX.1-dev": "Flux",
}

OWN_PICTURES = "On your own pictures"  # its commands build on one another: they have their own test


def fenced(text):
    """Shell commands of the fenced bash blocks of a page."""
    for block in re.findall(r"```bash\n(.*?)```", text, re.DOTALL):
        yield from filter(None, block.replace("\\\n", " ").strip().split("\n"))


def commands_on_own_pictures():
    text = (ROOT / "README.md").read_text()
    return [*fenced(text.split(f"\n## {OWN_PICTURES}\n")[1].split("\n## ")[0])]


def commands():
    """Shell commands of README and docs that stand alone, and those in backticks in the README that
    a reader would type."""
    own = commands_on_own_pictures()
    text = (ROOT / "README.md").read_text()
    yield from (c for c in fenced(text) if c not in own)
    yield from re.findall(r"`((?:make|conda env|pip install|python -m) [^`]*)`", text)
    for page in sorted((ROOT / "docs").glob("*.md")):
        yield from fenced(page.read_text())


def words_of(command):
    # a placeholder is one word for the reader, a redirection for the shell
    return shlex.split(re.sub(r"<\w+>", lambda m: shlex.quote(m.group()), command))


def layouts(folder, scenes_dir):
    """Twelve scenes in each layout of captions, in folders below `folder`: {placeholder: path}."""
    captions = json.loads((scenes_dir / "captions.json").read_text())
    made = {
        f"<{name}>": shutil.copytree(scenes_dir / "train", folder / name / "train").parent
        for name in ("data_with_metadata", "data_with_captions_json", "data_with_texts")
    }
    made["<kohya_folder>"] = folder / "kohya"
    repeated = made["<kohya_folder>"] / "img" / "10_cat"
    repeated.mkdir(parents=True)
    shutil.copy(scenes_dir / "captions.json", made["<data_with_captions_json>"])
    rows = [json.dumps({"file_name": key, "text": each}) for key, each in captions.items()]
    (made["<data_with_metadata>"] / "metadata.jsonl").write_text("\n".join(rows))
    members = {}
    for key, each in captions.items():
        text = (made["<data_with_texts>"] / key).with_suffix(".txt")
        text.write_text("\n".join(each))
        shutil.copy(scenes_dir / key, repeated)
        shutil.copy(text, repeated)
        content = (scenes_dir / key).read_bytes()
        members |= tars.sample(key.removesuffix(".png"), content, caption=each[0])
    tars.write(folder / "scenes.tar", members)
    return made | {"<tar_files>": folder / "scenes.tar"}


def saved(folder, name):
    """A miniature as a folder."""
    miniature(name).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def place(tmp_path_factory, micro_sd, micro_run, scenes_dir, lora):
    """A folder with what the README's placeholders stand for."""
    import diff_inference
    import diff_retrieval

    folder = tmp_path_factory.mktemp("readme")
    run = shutil.copytree(micro_run, folder / "run")
    diff_inference.main(
        [
            "--modelpath",
            str(run),
            "-nb",
            "3",
            "--num_inference_steps",
            "1",
            "--savepath",
            str(folder / "made"),
        ]
    )
    for name in ("evaluated", "evaluated-too"):
        diff_retrieval.main(
            [
                "--query_dir",
                str(folder / "made"),
                "--val_dir",
                str(scenes_dir / "train"),
                "--pt_style",
                "pixel",
                "--report_to",
                "none",
                "--num_workers",
                "0",
                "--metrics",
                "similarity",
                "--cache_dir",
                "none",
                "--output_dir",
                str(folder / name),
            ]
        )
    write_scenes(folder / "others", count=3, seed=9, size=32)
    return {
        "<training_data_path>": scenes_dir / "train",
        "<path_to_training_data>": scenes_dir / "train",
        "<path_to_captions_json>": scenes_dir / "captions.json",
        "<path_to_finetuned_model>": run,
        "<path_to_generated_data>": folder / "made",
        "<number_of_inference_generations>": 3,
        "MODEL": micro_sd,
        "TINY": ROOT / "assets" / "tiny-sd",
        **{name: saved(folder / name, of) for name, of in OF_FAMILIES.items()},
        "CAPTIONER": save_blip(folder / "captioner"),
        "folder": folder,
        "<path_to_lora>": lora,
        "<path_to_innocents>": folder / "others" / "train",
        "<path_to_evaluation>": folder / "evaluated",
        "<path_to_another_evaluation>": folder / "evaluated-too",
        "<path_to_shards>": scenes_dir / "train",
    } | layouts(folder / "layouts", scenes_dir)


def scaled(words, script, place):
    """The command with placeholders filled and sizes cut."""
    given = (
        SCALED[script]
        | (OF_INDEX if "<path_to_index>" in words else {})
        | {k: v for k, v in CUT.items() if any(w.startswith(k) for w in words)}
    )
    if script == "diff_retrieval.py" and "--modelpath" in words:
        given |= OF_CARDS
    for name in OF_FAMILIES.keys() & {*words}:
        given |= {"--pretrained_model_name_or_path": name, "--resolution": "16"}
    if "--no_align" in words:
        del given["--num_candidates"]
    if {"--build_index", "--dedup"} & {*words}:
        given = {k: v for k, v in given.items() if k not in NOT_OF_INDEX}
    filled = []
    for word in words:
        flag, equals, value = word.partition("=")
        if equals and flag.startswith("--"):
            filled += [flag, value]
        else:
            filled.append(word)
    for i, word in enumerate(filled):
        if word in given and not filled[i + 1].startswith("--"):
            filled[i + 1] = given.pop(word)
    if script == "sd_mitigation.py" and "--modelpath" not in filled:
        given["--pretrained_model_name_or_path"] = "TINY"
    filled += [w for pair in given.items() for w in pair]
    filled = [PLACEHOLDERS.get(w, place.get(w, w)) for w in filled]
    assert not [w for w in filled if str(w).startswith("<")]
    return [str(w) for w in filled]


@pytest.mark.parametrize("command", list(dict.fromkeys(commands())))
def test_a_command_of_the_documentation(command, place, script, tmp_path, monkeypatch):
    words = words_of(command)
    if words[0] == "make":
        # the target exists and would run; what it runs has tests of its own (tests/benchmarks, this
        # suite, mutants)
        made = subprocess.run(
            ["make", "-n", *words[1:]], cwd=ROOT, capture_output=True, text=True, check=True
        )
        programs = {
            "quickstart": "benchmarks/quickstart.py",
            "study": "benchmarks/replication_study.py",
        }
        programs |= {"test": "pytest", "mutants": "mutants.py", "help": "awk"}
        assert programs[words[1]] in made.stdout
        return
    if words[0] in ("conda", "pip"):
        assert "name: diffrep" in (ROOT / "env.yaml").read_text()
        assert "-r requirements.txt" in (ROOT / "env.yaml").read_text()
        pins = (ROOT / "requirements.txt").read_text().splitlines()
        assert all(re.match(r"[a-z0-9._-]+==[\w.!+]+( ; .+)?$", line) for line in pins)
        return
    if words[:2] == ["git", "clone"]:
        subprocess.run(
            ["git", "clone", "-q", "--no-local", str(ROOT), str(tmp_path / "clone")], check=True
        )
        assert (tmp_path / "clone" / "diff_train.py").exists() or not (ROOT / ".git").exists()
        return
    monkeypatch.chdir(tmp_path)
    # then the command before it in the README made it
    if "<path_to_index>" in words and "--build_index" not in words:
        image_index(tmp_path / "index", list_images("--val_dir", place["<path_to_shards>"]))
    place = place | {"<path_to_index>": tmp_path / "index"}
    place = place | {"<path_to_save_model>": tmp_path / "saved"}
    if words[:2] == ["accelerate", "launch"] and "bf16" in words:
        words = ["python", *words[2:]]  # the launcher starts the command of the other precision
    if words[:2] == ["accelerate", "launch"]:
        arguments = scaled(words[3:], words[2], place)
        launcher = [
            sys.executable,
            "-m",
            "accelerate.commands.launch",
            "--num_processes",
            "1",
            "--cpu",
        ]
        environment = os.environ | {"ACCELERATE_USE_CPU": "true"}
        subprocess.run(
            [*launcher, str(ROOT / words[2]), *arguments],
            check=True,
            env=environment,
            capture_output=True,
        )
        record = json.loads((tmp_path / "saved" / "run.json").read_text())
        assert (record["finished"], record["steps"]) == (True, 3)
        return
    if words[0] == "torchrun":
        arguments = scaled(words[4:], words[3], place)
        if "--build_index" in words:
            launched(int(words[2]), words[3], *arguments)
            record = json.loads((tmp_path / "index" / "index.json").read_text())["launch"]
        elif words[3] == "diff_retrieval.py":
            launched(int(words[2]), words[3], *arguments, "--output_dir", tmp_path / "e")
            record = json.loads((tmp_path / "e" / "metrics.json").read_text())["settings"]
        else:  # by torchrun itself: one command shows that it starts our scripts
            torchrun(int(words[2]), words[3], *arguments, "--savepath", tmp_path / "g")
            record = json.loads((tmp_path / "g" / "manifest.json").read_text())
        assert record["processes"] == int(words[2])
        return
    assert words[0] == "python"
    name = " ".join(words[1:3]) if words[1] == "-m" else words[1]
    arguments = scaled(words[3:] if words[1] == "-m" else words[2:], name, place)
    if name == "diff_retrieval.py" and "sscd" in arguments:
        arguments += ["--weights", str(torchscript(tmp_path))]
    module = {"-m utils.captioning": "utils.captioning.__main__"}.get(name, name)
    out = script(module.removeprefix("-m ").removesuffix(".py"), *arguments)
    if "--build_index" in arguments or "--dedup" in arguments:
        assert (
            "index: " in out
            or "could be removed; the largest group has" in out
            or "no near-duplicates" in out
        )
        return
    if "--dry_run" in arguments:
        assert '"images": 12,' in out
        said = "captions of 12 of 12 images are read from" in script.noticed
        assert said != ("<tar_files>" in words)
        return
    if "--compare_runs" in arguments:
        assert "| evaluated-too | 3 " in out
        assert (tmp_path / "comparisons").is_dir()
        return
    assert {
        "diff_train.py": "the model is in",
        "diff_retrieval.py": "report: ",
        "-m utils.data.scenes": "3 scenes",
        "-m utils.captioning": "12 images have 24 captions",
    }.get(name, "new) in ") in out


def test_the_commands_on_own_pictures_run_one_after_the_other(script, tmp_path, monkeypatch):
    """As a reader pastes them, in one working folder."""
    monkeypatch.chdir(tmp_path)
    printed = []
    for command in commands_on_own_pictures():
        words = words_of(command)
        assert words[0] == "python"
        if words[1] in ("-c", "benchmarks/photograph_tiles.py"):
            own = [ROOT / words[1]] if words[1] != "-c" else [words[1]]
            subprocess.run([sys.executable, *own, *words[2:]], check=True, capture_output=True)
            continue
        arguments = scaled(words[2:], words[1], {"TINY": ROOT / "assets" / "tiny-sd"})
        printed.append(script(words[1].removesuffix(".py"), *arguments))
    assert len(list((tmp_path / "photos").iterdir())) == 60
    captions = json.loads((tmp_path / "captions.json").read_text())
    assert captions["astronaut-0-0.png"] == ["astronaut 0 0"]
    train, card = printed
    assert "the model is in runs/photos/checkpoint" in train
    assert "runs/photos/card/card.html" in card
    record = json.loads((tmp_path / "runs" / "photos" / "card" / "card.json").read_text())
    assert record["kind"] == "memorization card"


def torchscript(folder):
    import torch

    path = folder / "sscd_disc_large.torchscript.pt"
    network = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 9, 8), torch.nn.AdaptiveAvgPool2d(2), torch.nn.Flatten()
    )
    torch.jit.trace(network.eval(), torch.rand(1, 3, 224, 224)).save(str(path))
    return path


def test_every_flag_of_the_readme_exists():
    from dataclasses import fields

    from utils.cli import (
        captioning_options,
        generation_options,
        scenes_options,
        train_options,
    )
    from utils.cli.retrieval_options import RetrievalOptions

    # the last two are the launchers'
    known = {"--seed", "--help", "--num_processes", "--nproc_per_node"}
    # of the study: tests/benchmarks/test_replication_study.py
    known |= {"--smoke", "--only", "--seeds", "--budget"}
    for cls in (
        train_options.TrainOptions,
        generation_options.MitigationOptions,
        RetrievalOptions,
        scenes_options.ScenesOptions,
        captioning_options.CaptioningOptions,
    ):
        for f in fields(cls):
            known |= {f"--{f.name}", *f.metadata["aliases"]}
    text = (ROOT / "README.md").read_text()
    named = set(re.findall(r"(?<![\w-])--[a-z0-9][a-z0-9_-]+", text))
    assert named <= known, named - known
