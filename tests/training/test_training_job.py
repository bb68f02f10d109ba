"""The training stage before its first step: data, splits, what is encoded ahead. Resuming is tested
with the loop."""

from types import SimpleNamespace

import pytest
import torch

from utils.cli import flags, train_options
from utils.runtime import launching, parallel
from utils.training import data_job, training_job


@pytest.fixture
def built(micro_sd, scenes_dir):
    """built(*flags) -> (PreparedRun, options, Data) of a run on the twelve scenes."""

    def made(*extra):
        opts = flags.parse(
            train_options.TrainOptions,
            [
                "--pretrained_model_name_or_path",
                str(micro_sd),
                "--instance_data_dir",
                str(scenes_dir / "train"),
                "--instance_prompt_loc",
                str(scenes_dir / "captions.json"),
                "--class_prompt",
                "instancelevel_blip",
                "--resolution",
                "16",
                "--train_batch_size",
                "2",
                "--num_workers",
                "0",
                *extra,
            ],
            description="",
        )
        data = data_job.checked_data(opts, print)
        return (
            training_job.prepare(opts, data, launching.accelerator(mixed_precision="no"), seed=3),
            opts,
            data,
        )

    return made


def test_a_copy_has_the_steps_of_its_split_s_epochs(built):
    job, *_ = built("--clients_num", "5", "--num_train_epochs", "2", "--total_round", "3")
    assert (job.plan.sizes, job.plan.steps, job.plan.total) == (
        (3, 3, 2, 2, 2),
        4,
        60,
    )  # 2 * ceil(3 / 2), five turns, three rounds
    assert job.model.optimisation.schedule.steps == 12  # of the schedule: one copy, all rounds
    assert job.per_step == 2


def test_every_split_draws_its_own_images_and_all_are_drawn(built):
    job, *_ = built("--clients_num", "3")
    keys = [set(d.data.images.keys) for d in job.copies.draws.values()]
    assert set.union(*keys) == set(job.data.images.keys)
    assert sum(map(len, keys)) == 12
    for split, draws in job.copies.draws.items():
        assert {draws[s, 0]["row"] for s in range(30)} == set(job.splits[split].tolist())


def test_duplicated_images_keep_their_weight_in_their_split(built):
    job, *_ = built(
        "--clients_num",
        "2",
        "--duplication",
        "dup_both",
        "--weight_pc",
        "0.25",
        "--dup_weight",
        "7",
    )
    weights = {
        k: w
        for d in job.copies.draws.values()
        for k, w in zip(d.data.images.keys, d.data.weights, strict=True)
    }
    assert {k for k, w in weights.items() if w == 7} == set(job.duplicated)
    assert len(job.duplicated) == 3


def test_weights_of_a_file_follow_a_subset(built, scenes_dir, tmp_path):
    import json

    from utils.data import image_sets

    keys = image_sets.list_images("--d", scenes_dir / "train").keys
    (tmp_path / "w.json").write_text(json.dumps({k: i for i, k in enumerate(keys)}))
    job, *_ = built("--weights_file", str(tmp_path / "w.json"), "--trainsubset", "0.5")
    assert job.data.weights.tolist() == [keys.index(k) for k in job.data.images.keys]
    assert len(job.data.images) == 6


ALONE = parallel.Processes(
    SimpleNamespace(
        num_processes=1, process_index=0, device=torch.device("cpu"), is_main_process=True
    )
)


def test_what_is_encoded_ahead_is_what_the_frozen_networks_say(built, tmp_path, capsys):
    flags_ = ("--center_crop", "--random_flip", "--max_train_steps", "20")
    job, opts, _ = built(*flags_)
    batch = next(iter(_loader(job)))
    (noisy, _, own, *_), *_ = job.model.inputs(batch, 0)
    capsys.readouterr()
    training_job.encode(job, opts, tmp_path, ALONE)
    batch = next(iter(_loader(job)))
    assert "pixels" not in batch
    (kept, _, kept_own, *_), *_ = job.model.inputs(batch, 0)
    torch.testing.assert_close(kept, noisy, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(kept_own, own, rtol=1e-4, atol=1e-4)
    assert capsys.readouterr().out == ""


def _loader(job):
    from utils.data import training_data

    return training_data.loader(job.copies.draws[0], steps=range(1), batch_size=2)


@pytest.mark.parametrize(
    ("extra", "rows"),
    [
        ((), 12),
        (("--trainspecial", "allcaps"), 60),
        (("--duplication", "dup_image"), 60),
        (("--trainspecial", "randwordadd"), None),
        (("--train_text_encoder",), None),
    ],
)
def test_captions_are_kept_where_they_are_fixed(built, tmp_path, extra, rows):
    job, opts, _ = built("--max_train_steps", "40", *extra)
    training_job.encode(job, opts, tmp_path, ALONE)
    cached = job.model.frozen.cached_text
    assert (cached.rows.rows if cached else None) == rows
    if rows:
        job.model.inputs(next(iter(_loader(job))), 0)


def test_the_host_memory_that_waiting_copies_need(built):
    job, *_ = built("--clients_num", "4", "--use_ema")
    weights = 4 * sum(p.numel() for p in job.model.weights.values())
    assert job.copies.host_bytes() == 4 * 2 * weights + 3 * 2 * weights
    lines = []
    training_job.require_host_memory(job, lines.append)
    assert lines[0].startswith(
        "4 copies take turns; those that wait need 0.00 GiB of host memory, "
    )


def drawn_keys(job, steps=40):
    """Keys of the images of a number of micro-batches of two, of every split."""
    return {
        job.data.images.keys[draws[step, slot]["row"]]
        for draws in job.copies.draws.values()
        for step in range(steps)
        for slot in (0, 1)
    }


@pytest.mark.parametrize(
    "extra",
    [
        (),
        ("--duplication", "dup_image", "--weight_pc", "0.5"),
        ("--trainsubset", "0.7"),
        ("--clients_num", "3"),
        ("--mixup_noise_lam", "0.4"),
        ("--class_prompt", "classlevel"),
    ],
    ids=" ".join,
)
def test_images_that_are_held_out_are_never_drawn(built, extra):
    job, opts, data = built("--holdout", "0.25", *extra)
    held = set(job.held_out)
    assert len(held) == 3
    assert held < set(data.images.keys)
    assert drawn_keys(job) == set(job.data.images.keys)
    assert not held & set(job.data.images.keys)
    assert not held & set(job.data.prompts)
    assert not held & set(job.duplicated)
    assert len(job.data.images) == (6 if opts.trainsubset else 9)  # floor(0.7 * 9)
    # the same images, whatever else is asked for
    assert held == set(built("--holdout", "0.25")[0].held_out)


def test_captions_of_held_out_images_reach_no_batch(built, scenes_dir):
    import json

    job, *_ = built("--holdout", "0.5", "--duplication", "dup_image", "--mixup_noise_lam", "0.4")
    texts = json.loads((scenes_dir / "captions.json").read_text())
    assert {f"train/{k}": v for k, v in job.held_out.items()}.items() <= texts.items()
    (draws,) = job.copies.draws.values()
    used = {c for k in job.data.images.keys for c in texts[f"train/{k}"]}
    items = [draws[step, slot] for step in range(30) for slot in (0, 1)]
    assert {i["prompt"] for i in items} | {i["partner_prompt"] for i in items} <= used


def test_weights_of_a_file_follow_a_holdout(built, scenes_dir, tmp_path):
    import json

    from utils.data import image_sets

    keys = image_sets.list_images("--d", scenes_dir / "train").keys
    (tmp_path / "w.json").write_text(json.dumps({k: i for i, k in enumerate(keys)}))
    job, *_ = built("--weights_file", str(tmp_path / "w.json"), "--holdout", "0.25")
    assert job.data.weights.tolist() == [keys.index(k) for k in job.data.images.keys]
    assert len(job.data.images) == 9


def test_without_a_holdout_nothing_is_set_aside(built):
    job, _, data = built()
    assert job.held_out == {}
    assert job.data.images == data.images


def test_repeats_of_folders_and_the_weights_file_are_multiplied(tmp_path):
    import json

    from tests.tars import png
    from utils.data.field_names import USUAL
    from utils.training.training_inputs import InputFiles, checked_inputs

    for name in ("10_cat/0.png", "10_cat/1.png", "2_dog/2.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(png(1))
    weights = tmp_path / "weights.json"
    weights.write_text(json.dumps({"10_cat/1.png": 0.5}))
    said = []
    for folder_repeats, file, expected in (
        (True, str(weights), [2.0, 10.0, 5.0]),
        (True, None, [2.0, 10.0, 10.0]),
        (False, str(weights), [1.0, 1.0, 0.5]),
        (False, None, None),
    ):
        files = InputFiles(
            images=str(tmp_path),
            captions=None,
            columns=USUAL,
            weights=file,
            prompt_style="classlevel",
            max_bad=0,
            workers=1,
            folder_repeats=folder_repeats,
        )
        found = checked_inputs(files, subset=None, copies=1, say=said.append)
        assert (None if found.weights is None else found.weights.tolist()) == expected
    assert sum("folders are named <repeats>_<class>" in line for line in said) == 2
