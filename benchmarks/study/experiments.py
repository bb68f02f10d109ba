"""The experiments of the replication study: budgets, seeds, trainings and arms, and the commands
that run them.

An arm is one set of generated images: it says which training the images come from, and how they are
generated and evaluated. Experiments share arms and trainings: seven of the ten experiments use the
run of ordinary training with duplicates."""

import hashlib
import shlex
from dataclasses import dataclass
from pathlib import Path

from benchmarks.commands import flag_words

TINY_SD = "assets/tiny-sd"
SEEDS = (1, 2, 3)
# draws the scenes that the Frechet distance compares with; no training set has this seed
REFERENCE_SEED = 1000


@dataclass(frozen=True)
class Budget:
    """The size of every training and of every arm.

    It was chosen before the study, on scenes of seed 100, by two criteria alone: the whole study
    with three seeds takes less than two hours on two cores, and ordinary training copies some
    images but not all. Shares of copies in the pilots: 1,000 steps on 64 scenes: none; 1,250 steps
    on 32 scenes: 69 % of the images of duplicated prompts and 6 % of the others (62 and 6 % with a
    cosine rate and no moving average); without duplicates: 28 % of all images, and 6 % at twice the
    learning rate. A first attempt with 1,280 steps and 128 images per arm was stopped after seven
    minutes, with 24 of 223 tasks done: it would have taken 130 minutes."""

    images: int = 32  # in a training set, unless the experiment varies this number
    steps: int = 1120  # optimizer steps; divisible by rounds x each number of copies
    rounds: int = 5  # rounds of an ensemble; also the number of checkpoints during a run
    batch: int = 8
    learning_rate: float = 1e-3
    prompts: int = 32
    # images per arm; the same for all, because the Frechet distance grows with fewer images
    generated: int = 64
    sampling_steps: int = 25
    fewer_steps: int = 10
    more_steps: int = 50
    reference: int = 2000  # scenes for the Frechet distance, outside every training set


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
    """One training of the study, as its difference from the common recipe."""

    images: int | None = None  # size of the training set; None: the budget's
    flags: tuple = ()  # flags of diff_train.py beside those of the recipe
    copies: int = 1  # model copies of an ensemble
    checkpoints: bool = False  # True: checkpoints during the run; False: only at its end


@dataclass(frozen=True)
class Arm:
    """One set of generated images."""

    training: str | None  # name of the training; None: the base model
    script: str = "diff_inference.py"
    flags: tuple = ()  # flags of the script beside the common ones
    own_prompts: bool = False  # True: the prompts of the training, which are not the captions
    part: int | None = None  # which checkpoint during the run, from 1; None: the final one
    guidance: float = 3.0  # tiny-sd was evaluated with 3; at 7.5 its colours saturate
    sampling: str = "sampling_steps"  # the field of Budget that gives the number of steps


CAPTIONS = ("--class_prompt", "instancelevel_blip")
DUPLICATES = ("--duplication", "dup_both")
BOTH = CAPTIONS + DUPLICATES
SIZES = (16, 32, 64, 128, 256)
COPIES = (2, 4, 8)
RATIOS = ("2", "1.5", "1.25", "1.1")  # in order: the first skips fewest draws
# --trainspecial_prob keeps its published default of 0.1, and the noise is that of the published
# commands. No value for mixup is published: Beta(1, 1) mixes at a uniform ratio.
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

# Low-rank adaptation of the U-Net with alpha = rank. Pilots, of ranks 1 to 64 on one seed and of
# rank 16 on scenes of seed 100: adapters of the attention alone, the default, learn next to
# nothing of tiny-sd, whose weights are mostly convolutions. At 3e-3 no rank copied anything or
# came nearer to other scenes, rank 64 diverged, as rank 16 did at 1e-2; at 1e-3 the loss of
# training images at fixed noise was 0.0415 after 560 steps. With the layers below it was 0.0376
# after 373, and still fell. Each rank is compared with full weights where both are as far from
# other scenes, so that a rank which merely learns more slowly is not taken for one that copies
# less.
LAYERS = "to_q,to_k,to_v,to_out.0,conv1,conv2,proj_in,proj_out,ff.net.0.proj,ff.net.2"
RANKS = (1, 4, 16, 64)
LORA = ("--learning_rate", "1e-3", "--lora_layers", LAYERS, "--lora_rank")
PARTS = (1, 2, 3, 4)  # checkpoints before the final one


def along(training):
    """The arms of a training with checkpoints, in the order of their steps."""
    return (*(f"{training} at {part}/5" for part in PARTS), training)


# {mitigation: arms with its strengths, the mildest first}
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
        style: StudyTraining(flags=("--class_prompt", style, *DUPLICATES))
        for style in ("nolevel", "classlevel", "instancelevel_random")
    },
    **{f"{n} images": StudyTraining(images=n, flags=CAPTIONS) for n in SIZES if n != 32},
    **{f"train {name}": StudyTraining(flags=BOTH + flags) for name, flags in TRAIN_TIME.items()},
    **{f"IET {k}": StudyTraining(flags=CAPTIONS, copies=k) for k in COPIES},
    **{f"AGC {ratio}": StudyTraining(flags=(*CAPTIONS, "--mem_ratio", ratio)) for ratio in RATIOS},
    "IET 4 AGC 1.25": StudyTraining(flags=(*CAPTIONS, "--mem_ratio", "1.25"), copies=4),
    # This training was added when the first seed showed that four copies reproduce nothing and
    # that their loss banks hardly fill. No verdict depends on it.
    "IET 2 AGC 1.25": StudyTraining(flags=(*CAPTIONS, "--mem_ratio", "1.25"), copies=2),
    **{
        f"LoRA {rank}": StudyTraining(flags=(*BOTH, *LORA, str(rank)), checkpoints=True)
        for rank in RANKS
    },
}

ARMS = {
    "base": Arm(None),
    **{
        name: Arm(name, own_prompts=name in ("nolevel", "classlevel", "instancelevel_random"))
        for name in TRAININGS
    },
    **{
        f"{name} at {part}/5": Arm(name, part=part)
        for name in ("dup_both", *(f"LoRA {rank}" for rank in RANKS))
        for part in PARTS
    },
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
    """Return {finding: {arm: name in the finding's table}}, in the order of that table."""
    step = budget.steps // budget.rounds
    checkpoints = {f"dup_both at {part}/5": f"{step * part:,} steps" for part in PARTS}
    ranks = {"dup_both": "full", **{f"LoRA {rank}": f"rank {rank}" for rank in RANKS}}
    strengths = {arm: arm for group in INFERENCE_TIME for arm in GROUPS[group]}
    return {
        1: {"base": "base model", **_by_own_name("nodup", "dup_image", "dup_both")},
        2: {
            **_by_own_name("nolevel", "classlevel"),
            "dup_both": "instancelevel_blip",
            **_by_own_name("instancelevel_random"),
        },
        3: {
            ("nodup" if n == 32 else f"{n} images"): f"{budget.images if n == 32 else n} images"
            for n in SIZES
        },
        4: {"base": "base model", **checkpoints, "dup_both": f"{budget.steps:,} steps"},
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
        8: {"base": "base model", **_by_own_name("nodup", "dup_both")},
        9: {
            "guidance 1": "guidance 1",
            "dup_both": f"guidance 3, {budget.sampling_steps} steps",
            "guidance 7.5": "guidance 7.5",
            "fewer steps": f"{budget.fewer_steps} steps",
            "more steps": f"{budget.more_steps} steps",
        },
        10: {
            "base": "base model",
            **{
                arm: f"{name}, {step * place:,} steps"
                for training, name in ranks.items()
                for place, arm in enumerate(along(training), 1)
            },
        },
    }


def _by_own_name(*arms):
    return {arm: arm for arm in arms}


# {number of the finding: its arms}
EXPERIMENTS = {number: tuple(named) for number, named in names(Budget()).items()}


class StudyPlan:
    """The folders of a study and the commands that fill them.

    out: the folder that holds all runs, images and reports;
    budget: Budget;
    keyed: whether the name of a run's or an arm's folder ends with a hash of its options, so that a
        folder made with other options is never reused."""

    def __init__(self, out, budget, *, keyed=True):
        self.out, self.budget, self.keyed = Path(out), budget, keyed

    def reference(self):
        return self.out / "reference"

    def images_of(self, training):
        return TRAININGS[training or "nodup"].images or self.budget.images

    def scenes(self, training, seed):
        return self.out / f"seed-{seed}" / f"scenes-{self.images_of(training)}"

    def run(self, training, seed):
        named = self._named(training, lambda: self.run_key(training, seed))
        return self.out / f"seed-{seed}" / "runs" / named

    def arm(self, name, seed):
        named = self._named(name, lambda: self.key(name, seed))
        return self.out / f"seed-{seed}" / "images" / named

    def _named(self, name, key):
        name = name.replace(" ", "-").replace("/", "-of-")
        return f"{name}-{key()}" if self.keyed else name

    def reports(self, name, seed):
        """Return the folders of an arm's two evaluations: against the training images, and against
        scenes outside every training set."""
        return tuple(
            self.out / f"seed-{seed}" / kind / self.arm(name, seed).name
            for kind in ("reports", "distances")
        )

    def data_commands(self, seeds, arms):
        """Return {file written last: command} for each set of scenes that the arms need."""
        needed = {
            (self.scenes(ARMS[a].training, s), self.images_of(ARMS[a].training), s)
            for a in arms
            for s in seeds
        }
        needed.add((self.reference(), self.budget.reference, REFERENCE_SEED))
        return {
            folder / "captions.json": scene_command({"--out": folder}, count, seed)
            for folder, count, seed in sorted(needed)
        }

    def training_command(self, name, seed):
        """Return (file written last, command) of a training."""
        training, b = TRAININGS[name], self.budget
        folder, rounds = self.run(name, seed), b.rounds if training.copies > 1 else 1
        # steps of one copy in one round: all trainings see the same number of samples
        steps = b.steps // (training.copies * rounds)
        ensemble = {
            "--clients_num": training.copies,
            "--total_round": rounds,
            "--modelsaverounds": rounds,
        }
        scenes = self.scenes(name, seed)
        data = {
            "--pretrained_model_name_or_path": TINY_SD,
            "--instance_data_dir": scenes / "train",
            "--instance_prompt_loc": (
                None if "instancelevel_random" in training.flags else scenes / "captions.json"
            ),
        }
        recipe = {
            "--weight_pc": "0.25",
            "--resolution": 64,
            "--center_crop": True,
            "--train_batch_size": b.batch,
            "--max_train_steps": steps,
            **(ensemble if training.copies > 1 else {}),
            "--learning_rate": None if "--learning_rate" in training.flags else b.learning_rate,
            "--lr_scheduler": "constant_with_warmup",
            "--lr_warmup_steps": 20,
            "--use_ema": True,
            "--save_steps": b.steps,
            "--modelsavesteps": b.steps // b.rounds if training.checkpoints else b.steps,
            "--num_workers": 0,
            "--seed": seed,
            "--report_to": "none",
            "--output_dir": folder,
        }
        command = ["diff_train.py", *flag_words(data), *training.flags, *flag_words(recipe)]
        return folder / "run.json", command

    def arm_commands(self, name, seed):
        """Return [(file written last, command)] of an arm: generate its images, compare them with
        the training images, compute their Frechet distance."""
        report, distance = self.reports(name, seed)
        compare = {
            "--val_dir": self.scenes(ARMS[name].training, seed) / "train",
            "--run": self.run(self.needs(name), seed),
            "--metrics": "similarity,duplication,complexity",
        }
        frechet = {"--val_dir": self.reference() / "train", "--metrics": "fd"}
        return [
            (self.arm(name, seed) / "manifest.json", self._generation_command(name, seed)),
            *(
                (folder / "metrics.json", self._evaluation_command(name, seed, flags, folder))
                for folder, flags in ((report, compare), (distance, frechet))
            ),
        ]

    def _generation_command(self, name, seed):
        arm, b = ARMS[name], self.budget
        run = self.run(self.needs(name), seed)
        prompts = min(b.prompts, self.images_of(arm.training))
        model = {
            "--modelpath": TINY_SD if arm.training is None else run,
            "--iternum": None if arm.part is None else b.steps // b.rounds * arm.part,
        }
        folder = run if arm.own_prompts else self.scenes(arm.training, seed)
        images = {
            "--prompts": folder / "captions.json",
            "-nb": prompts,
            "-imb": b.generated // prompts,
            "--resolution": 64,
            "--num_inference_steps": getattr(b, arm.sampling),
            "--guidance_scale": arm.guidance,
            "--scheduler": "DPMSolverMultistep",
            "--seed": seed,
            "--savepath": self.arm(name, seed),
        }
        return [arm.script, *flag_words(model), *arm.flags, *flag_words(images)]

    def _evaluation_command(self, name, seed, flags, folder):
        common = {
            "--query_dir": self.arm(name, seed),
            "--pt_style": "pixel",
            "--num_matches": 1,
            "--num_workers": 2,
            "--report_to": "none",
        }
        # The study counts copies by the similarity alone. Its first rows were made before pictures
        # were aligned; the flag is no part of a key, so that they stay valid.
        common |= {"--no_align": self.keyed}
        return ["diff_retrieval.py", *flag_words(common | flags | {"--output_dir": folder})]

    def needs(self, name):
        """Return the training whose run an arm needs. The base model needs one too: its evaluation
        reads from that run which images are duplicated."""
        return ARMS[name].training or "dup_both"

    def is_current(self, row):
        """Return whether a row belongs to an arm as this file defines it: not to another budget,
        and not to an arm that was removed."""
        return row.arm in ARMS and row.key == self.key(row.arm, row.seed)

    def run_key(self, training, seed):
        """Return a hash of the commands of a run. It does not depend on the output folder."""
        here = StudyPlan("out", self.budget, keyed=False)
        scenes = scene_command({}, self.images_of(training), seed)
        return hashed([scenes, here.training_command(training, seed)[1]])

    def key(self, name, seed):
        """Return the key of an arm's row: a hash of all of its commands. It does not depend on the
        output folder."""
        here = StudyPlan("out", self.budget, keyed=False)
        commands = [
            [self.run_key(self.needs(name), seed)],
            scene_command({}, self.budget.reference, REFERENCE_SEED),
            *(c for _, c in here.arm_commands(name, seed)),
        ]
        return hashed(commands)


def scene_command(out, count, seed):
    """The command that draws scenes. out: {"--out": folder}, or {} to leave the folder out."""
    return ["-m", "utils.data.scenes", *flag_words({**out, "--count": count, "--seed": seed})]


def hashed(commands):
    """Return a short hash of commands, each a list of words."""
    lines = "\n".join(shlex.join(map(str, c)) for c in commands)
    return hashlib.sha256(lines.encode()).hexdigest()[:8]
