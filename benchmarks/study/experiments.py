"""The table of the replication study: budgets, seeds, every training and every set of images, as
commands of the scripts.

An arm is one set of generated images: of which training, made and measured how. Experiments share
arms and trainings: the run of ordinary training with duplicates is in six of the nine."""

import hashlib
import shlex
from dataclasses import dataclass
from pathlib import Path

TINY_SD = "assets/tiny-sd"
SEEDS = (1, 2, 3)
REFERENCE_SEED = 1000  # of the scenes of the Frechet distance: nobody's training images


@dataclass(frozen=True)
class Budget:
    """What every training and every arm costs.

    Chosen before the study on scenes of seed 100, by two things alone: all of it with three seeds
    takes less than two hours of two cores, and ordinary training copies neither nothing nor
    everything. Shares of copies of the pilots: 1,000 steps on 64 scenes none; 1,250 on 32 scenes 69
    % of the images of duplicated prompts and 6 % of the others (with a cosine rate and no moving
    average 62 and 6 %), without duplicates 28 % of all, at twice the rate 6 %. A first start with
    1,280 steps and 128 images an arm was stopped after seven minutes, of 223 tasks 24 done: it
    would have taken 130 minutes."""

    images: int = 32  # of a training set, where its size is not the question
    steps: int = 1120  # optimizer steps; divisible by rounds x every number of copies
    rounds: int = 5  # of an ensemble; and checkpoints along a run
    batch: int = 8
    learning_rate: float = 1e-3
    prompts: int = 32
    # of each arm: the Frechet distance of fewer images is larger, so all have as many
    generated: int = 64
    sampling_steps: int = 25
    fewer_steps: int = 10
    more_steps: int = 50
    reference: int = 2000  # scenes outside every training set


SMOKE = Budget(
    images=8,
    steps=40,
    rounds=5,
    batch=2,
    prompts=8,
    generated=8,
    sampling_steps=2,
    fewer_steps=1,
    more_steps=3,
    reference=60,
)


@dataclass(frozen=True)
class StudyTraining:
    """images: of its training set, or None for the budget's; flags: what differs from the
    recipe."""

    images: int | None = None
    flags: tuple = ()
    copies: int = 1
    checkpoints: bool = False  # along the run, or at its end alone


@dataclass(frozen=True)
class Arm:
    """A set of generated images. own_prompts: those that the run was trained with, where they are
    not the captions."""

    training: str | None  # None: the base model
    script: str = "diff_inference.py"
    flags: tuple = ()
    own_prompts: bool = False
    part: int | None = None  # a checkpoint along the run: the first, second ... of the budget's
    guidance: float = 3.0  # as tiny-sd was judged with; at 7.5 its colours saturate
    sampling: str = "sampling_steps"  # which field of the budget


CAPTIONS = ("--class_prompt", "instancelevel_blip")
DUPLICATES = ("--duplication", "dup_both")
BOTH = CAPTIONS + DUPLICATES
SIZES = (16, 32, 64, 128, 256)
COPIES = (2, 4, 8)
RATIOS = ("2", "1.5", "1.25", "1.1")  # from what skips least
# --trainspecial_prob stays at its published default of 0.1, noise is that of the published
# commands. Of mixup no value is published: Beta(1, 1) mixes at a uniform ratio.
TRAIN_TIME = {
    "MC": ("--trainspecial", "allcaps"),
    "GN": ("--rand_noise_lam", "0.1"),
    "RC": ("--trainspecial", "randrepl"),
    "CWR": ("--trainspecial", "wordrepeat"),
    "random words": ("--trainspecial", "randwordadd"),
    "mixup": ("--mixup_noise_lam", "1"),
}
INFERENCE_TIME = {
    "RT": {n: ("--rand_augs", "rand_word_add", "--rand_aug_repeats", n) for n in ("1", "2", "4")},
    "CWR": {
        n: ("--rand_augs", "rand_word_repeat", "--rand_aug_repeats", n) for n in ("1", "2", "4")
    },
    "RNA": {n: ("--rand_augs", "rand_numb_add", "--rand_aug_repeats", n) for n in ("1", "2", "4")},
    "GNI": {n: ("--rand_noise_lam", n) for n in ("0.1", "0.3", "0.6")},
}

# strengths of one thing, from the mildest on
GROUPS = {
    **{name: tuple(f"{name} {n}" for n in strengths) for name, strengths in INFERENCE_TIME.items()},
    "IET": tuple(f"IET {k}" for k in COPIES),
    "AGC": tuple(f"AGC {ratio}" for ratio in RATIOS),
}

TRAININGS = {
    "dup_both": StudyTraining(flags=BOTH, checkpoints=True),
    "dup_image": StudyTraining(flags=(*CAPTIONS, "--duplication", "dup_image")),
    "nodup": StudyTraining(flags=CAPTIONS),
    **{
        f"{style}": StudyTraining(flags=("--class_prompt", style, *DUPLICATES))
        for style in ("nolevel", "classlevel", "instancelevel_random")
    },
    **{f"{n} images": StudyTraining(images=n, flags=CAPTIONS) for n in SIZES if n != 32},
    **{f"train {name}": StudyTraining(flags=BOTH + flags) for name, flags in TRAIN_TIME.items()},
    **{f"IET {k}": StudyTraining(flags=CAPTIONS, copies=k) for k in COPIES},
    **{f"AGC {ratio}": StudyTraining(flags=(*CAPTIONS, "--mem_ratio", ratio)) for ratio in RATIOS},
    "IET 4 AGC 1.25": StudyTraining(flags=(*CAPTIONS, "--mem_ratio", "1.25"), copies=4),
    # added when the first seed showed that four copies copy nothing and that their banks hardly
    # fill: it decides nothing
    "IET 2 AGC 1.25": StudyTraining(flags=(*CAPTIONS, "--mem_ratio", "1.25"), copies=2),
}

ARMS = {
    "base": Arm(None),
    **{
        name: Arm(name, own_prompts=name in ("nolevel", "classlevel", "instancelevel_random"))
        for name in TRAININGS
    },
    **{f"dup_both at {part}/5": Arm("dup_both", part=part) for part in (1, 2, 3, 4)},
    **{
        f"{name} {n}": Arm("dup_both", script="sd_mitigation.py", flags=flags)
        for name, strengths in INFERENCE_TIME.items()
        for n, flags in strengths.items()
    },
    "guidance 1": Arm("dup_both", guidance=1.0),
    "guidance 7.5": Arm("dup_both", guidance=7.5),
    "fewer steps": Arm("dup_both", sampling="fewer_steps"),
    "more steps": Arm("dup_both", sampling="more_steps"),
}


def names(budget):
    """{number of the finding: {arm: its name there}}, in the order of the finding's table."""
    step = budget.steps // budget.rounds
    along = {f"dup_both at {part}/5": f"{step * part:,} steps" for part in (1, 2, 3, 4)}
    strengths = {arm: arm for group in INFERENCE_TIME for arm in GROUPS[group]}
    return {
        1: {
            "base": "base model",
            "nodup": "nodup",
            "dup_image": "dup_image",
            "dup_both": "dup_both",
        },
        2: {
            "nolevel": "nolevel",
            "classlevel": "classlevel",
            "dup_both": "instancelevel_blip",
            "instancelevel_random": "instancelevel_random",
        },
        3: {
            ("nodup" if n == 32 else f"{n} images"): f"{budget.images if n == 32 else n} images"
            for n in SIZES
        },
        4: {"base": "base model", **along, "dup_both": f"{budget.steps:,} steps"},
        5: {
            "base": "base model",
            "dup_both": "none",
            **{f"train {name}": name for name in TRAIN_TIME},
        },
        6: {"base": "base model", "dup_both": "none", **strengths},
        7: {
            "base": "base model",
            "nodup": "none (K = 1)",
            **{f"IET {k}": f"K = {k}" for k in COPIES},
            **{f"AGC {ratio}": f"ρ = {ratio}" for ratio in RATIOS},
            "IET 4 AGC 1.25": "K = 4, ρ = 1.25",
            "IET 2 AGC 1.25": "K = 2, ρ = 1.25",
        },
        8: {"base": "base model", "nodup": "nodup", "dup_both": "dup_both"},
        9: {
            "guidance 1": "guidance 1",
            "dup_both": f"guidance 3, {budget.sampling_steps} steps",
            "guidance 7.5": "guidance 7.5",
            "fewer steps": f"{budget.fewer_steps} steps",
            "more steps": f"{budget.more_steps} steps",
        },
    }


# number of the finding -> its arms
EXPERIMENTS = {number: tuple(named) for number, named in names(Budget()).items()}


class StudyPlan:
    """Where everything of a study lies, and its commands. out: folder of everything it makes;
    budget: Budget.

    keyed: whether folders of runs and images end in a hash of their options, so that no finished
    one is taken for another."""

    def __init__(self, out, budget, *, keyed=True):
        self.out, self.budget, self.keyed = Path(out), budget, keyed

    def reference(self):
        return self.out / "reference"

    def images_of(self, training):
        return TRAININGS[training or "nodup"].images or self.budget.images

    def scenes(self, training, seed):
        return self.out / f"seed-{seed}" / f"scenes-{self.images_of(training)}"

    def run(self, training, seed):
        return (
            self.out
            / f"seed-{seed}"
            / "runs"
            / self._named(training, lambda: self.run_key(training, seed))
        )

    def arm(self, name, seed):
        return (
            self.out / f"seed-{seed}" / "images" / self._named(name, lambda: self.key(name, seed))
        )

    def _named(self, name, key):
        name = name.replace(" ", "-").replace("/", "-of-")
        return f"{name}-{key()}" if self.keyed else name

    def reports(self, name, seed):
        """Folders of the two evaluations: against the training images, and against scenes outside
        every training set."""
        return tuple(
            self.out / f"seed-{seed}" / kind / self.arm(name, seed).name
            for kind in ("reports", "distances")
        )

    def data_commands(self, seeds, arms):
        """{what is there when it is done: command} of every set of scenes that these arms need."""
        needed = {
            (self.scenes(ARMS[a].training, s), self.images_of(ARMS[a].training), s)
            for a in arms
            for s in seeds
        }
        needed.add((self.reference(), self.budget.reference, REFERENCE_SEED))
        return {
            folder / "captions.json": [
                "-m",
                "utils.data.scenes",
                "--out",
                folder,
                "--count",
                count,
                "--seed",
                seed,
            ]
            for folder, count, seed in sorted(needed)
        }

    def training_command(self, name, seed):
        """(what is there when it is done, command)."""
        training, b = TRAININGS[name], self.budget
        folder, rounds = self.run(name, seed), b.rounds if training.copies > 1 else 1
        # of a copy and round: as many samples in all, however many copies
        steps = b.steps // (training.copies * rounds)
        ensemble = [
            "--clients_num",
            training.copies,
            "--total_round",
            rounds,
            "--modelsaverounds",
            rounds,
        ]
        scenes = self.scenes(name, seed)
        return folder / "run.json", [
            "diff_train.py",
            "--pretrained_model_name_or_path",
            TINY_SD,
            "--instance_data_dir",
            scenes / "train",
            *(
                ()
                if "instancelevel_random" in training.flags
                else ("--instance_prompt_loc", scenes / "captions.json")
            ),
            *training.flags,
            "--weight_pc",
            "0.25",
            "--resolution",
            64,
            "--center_crop",
            "--train_batch_size",
            b.batch,
            "--max_train_steps",
            steps,
            *(ensemble if training.copies > 1 else ()),
            "--learning_rate",
            b.learning_rate,
            "--lr_scheduler",
            "constant_with_warmup",
            "--lr_warmup_steps",
            20,
            "--use_ema",
            "--save_steps",
            b.steps,
            "--modelsavesteps",
            b.steps // b.rounds if training.checkpoints else b.steps,
            "--num_workers",
            0,
            "--seed",
            seed,
            "--report_to",
            "none",
            "--output_dir",
            folder,
        ]

    def arm_commands(self, name, seed):
        """[(what is there when it is done, command)]: images, similarity, distance."""
        arm, b = ARMS[name], self.budget
        images, (report, distance) = self.arm(name, seed), self.reports(name, seed)
        run = self.run(arm.training or "dup_both", seed)
        scenes = self.scenes(arm.training, seed)
        prompts = min(b.prompts, self.images_of(arm.training))
        model = [TINY_SD] if arm.training is None else [run]
        model += [] if arm.part is None else ["--iternum", b.steps // b.rounds * arm.part]
        measured = [
            "diff_retrieval.py",
            "--query_dir",
            images,
            "--pt_style",
            "pixel",
            "--num_matches",
            1,
            "--num_workers",
            2,
            "--report_to",
            "none",
        ]
        return [
            (
                images / "manifest.json",
                [
                    arm.script,
                    "--modelpath",
                    *model,
                    *arm.flags,
                    "--prompts",
                    (run if arm.own_prompts else scenes) / "captions.json",
                    "-nb",
                    prompts,
                    "-imb",
                    b.generated // prompts,
                    "--resolution",
                    64,
                    "--num_inference_steps",
                    getattr(b, arm.sampling),
                    "--guidance_scale",
                    arm.guidance,
                    "--scheduler",
                    "DPMSolverMultistep",
                    "--seed",
                    seed,
                    "--savepath",
                    images,
                ],
            ),
            (
                report / "metrics.json",
                [
                    *measured,
                    "--val_dir",
                    scenes / "train",
                    "--run",
                    run,
                    "--metrics",
                    "similarity,duplication,complexity",
                    "--output_dir",
                    report,
                ],
            ),
            (
                distance / "metrics.json",
                [
                    *measured,
                    "--val_dir",
                    self.reference() / "train",
                    "--metrics",
                    "fd",
                    "--output_dir",
                    distance,
                ],
            ),
        ]

    def needs(self, name):
        """The training without whose run an arm cannot be made: the base model is measured by the
        duplicates of a run."""
        return ARMS[name].training or "dup_both"

    def is_current(self, row):
        """Whether a row is of an arm as it stands in this file, not of another budget or of one
        that is gone."""
        return row.arm in ARMS and row.key == self.key(row.arm, row.seed)

    def run_key(self, training, seed):
        """A hash of the commands that make a run, whatever folder they write to."""
        here = StudyPlan("out", self.budget, keyed=False)
        scenes = ["-m", "utils.data.scenes", "--count", self.images_of(training), "--seed", seed]
        return _hash([scenes, here.training_command(training, seed)[1]])

    def key(self, name, seed):
        """What names an arm's row: a hash of all of the commands that make it, whatever folder they
        write to."""
        here = StudyPlan("out", self.budget, keyed=False)
        reference = [
            "-m",
            "utils.data.scenes",
            "--count",
            self.budget.reference,
            "--seed",
            REFERENCE_SEED,
        ]
        commands = [
            [self.run_key(self.needs(name), seed)],
            reference,
            *(c for _, c in here.arm_commands(name, seed)),
        ]
        return _hash(commands)


def _hash(commands):
    return hashlib.sha256(
        "\n".join(shlex.join(map(str, c)) for c in commands).encode()
    ).hexdigest()[:8]
