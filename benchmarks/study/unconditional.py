"""The experiment of unconditional models: its size, trainings and arms, and the commands that run
them.

A small DDPM is trained from nothing on scenes of 32 px: plainly, with each of the methods of
iterative ensembles and anti-gradient control, and with both. All see as many samples. An arm is one
set of images of a trained model, or of a checkpoint of the plain training."""

from dataclasses import dataclass
from pathlib import Path

from benchmarks.commands import flag_words
from benchmarks.study.experiments import PARTS, REFERENCE_SEED, hashed, scene_command

NETWORK = "benchmarks/study/ddpm.json"  # 2,489,267 weights
SIDE = 32  # pixels of images and of the memorized quantity
COPIES = 4


@dataclass(frozen=True)
class Budget:
    """The size of every training and of every arm.

    The memorized quantity needs 50 training images. In a pilot on 64 scenes of seed 100, 1,800
    steps of 16 memorized nothing: no image of 64 had a ratio below 0.2, or was a copy. So the set
    is as small as can be, four splits of 13, and the steps are those that five trainings of three
    seeds can take in 90 minutes of two cores. In a second pilot, on 52 scenes, one image of 64 had
    a ratio below 0.15 after 5,200 steps of 8 and none was a copy: memorization begins there."""

    images: int = 52  # in a training set
    steps: int = 5500  # optimizer steps over all copies and rounds
    rounds: int = 5  # of an ensemble; also the number of checkpoints of the plain training
    batch: int = 8
    learning_rate: float = 1e-3
    warmup: int = 20
    generated: int = 128  # images per arm
    sampling_steps: int = 50
    reference: int = 2000  # scenes for the Frechet distance, outside every training set


SMOKE = Budget(
    images=52,  # the memorized quantity needs 50
    steps=40,
    batch=2,
    warmup=2,
    generated=4,
    sampling_steps=2,
    reference=60,
)

# At the published ratio. Published banks have 1,000 bins, each visited 51,200 times (5,120 times by
# a copy of ten); here 100 bins are visited 440 times (110 by a copy of four). The bank forgets a
# loss after about ten visits, so both are long enough; the correction matters before.
BINS = 100
CONTROL = ("--mem_ratio", "2", "--agc_bins", str(BINS), "--agc_bias_correction")
PLUS = ("--agc_reshard", "0.05", "--agc_augment", "1.25")


@dataclass(frozen=True)
class Training:
    """One training, as its difference from the plain one."""

    flags: tuple = ()  # flags of diff_train.py
    copies: int = 1
    checkpoints: bool = False  # during the run


@dataclass(frozen=True)
class Arm:
    """One set of generated images."""

    training: str
    part: int | None = None  # which checkpoint during the run, from 1; None: the final one


TRAININGS = {
    "plain": Training(checkpoints=True),
    "IET": Training(copies=COPIES),
    "AGC": Training(CONTROL),
    "both": Training(CONTROL, COPIES),
    "both+": Training(CONTROL + PLUS, COPIES),
}
ARMS = {
    **{f"plain at {part}/5": Arm("plain", part) for part in PARTS},
    **{name: Arm(name) for name in TRAININGS},
}
PLAIN = tuple(name for name, arm in ARMS.items() if arm.training == "plain")


def names(budget):
    """Return {arm: its name in tables}."""
    step = budget.steps // budget.rounds
    return {
        name: f"plain, {step * (arm.part or budget.rounds):,} steps" if name in PLAIN else name
        for name, arm in ARMS.items()
    }


class Plan:
    """The folders of the experiment and the commands that fill them.

    out: the folder that holds all runs, images and reports; budget: Budget; keyed: whether the name
    of a folder ends with a hash of its options, so that one made with others is never reused."""

    def __init__(self, out, budget, *, keyed=True):
        self.out, self.budget, self.keyed = Path(out), budget, keyed

    def reference(self):
        return self.out / "reference"

    def scenes(self, seed):
        return self.out / f"seed-{seed}" / f"scenes-{self.budget.images}"

    def run(self, training, seed):
        named = self._named(training, lambda: self.run_key(training, seed))
        return self.out / f"seed-{seed}" / "runs" / named

    def images(self, name, seed):
        named = self._named(name, lambda: self.key(name, seed))
        return self.out / f"seed-{seed}" / "images" / named

    def _named(self, name, key):
        name = name.replace(" ", "-").replace("/", "-of-").replace("+", "-plus")
        return f"{name}-{key()}" if self.keyed else name

    def reports(self, name, seed):
        """Return the folders of an arm's two evaluations: against the training images, and against
        scenes outside every training set."""
        return tuple(
            self.out / f"seed-{seed}" / kind / self.images(name, seed).name
            for kind in ("reports", "distances")
        )

    def data_commands(self, seeds, arms):
        """Return {file written last: command} for each set of scenes."""
        sets = [(self.reference(), self.budget.reference, REFERENCE_SEED)]
        sets += [(self.scenes(seed), self.budget.images, seed) for seed in seeds]
        return {
            folder / "captions.json": scene_command({"--out": folder}, count, seed)
            for folder, count, seed in sets
        }

    def training_command(self, name, seed):
        """Return (file written last, command) of a training."""
        training, b, folder = TRAININGS[name], self.budget, self.run(name, seed)
        rounds = b.rounds if training.copies > 1 else 1
        ensemble = {
            "--clients_num": training.copies,
            "--total_round": rounds,
            "--modelsaverounds": rounds,
        }
        recipe = {
            "--unconditional_arch": NETWORK,
            "--instance_data_dir": self.scenes(seed) / "train",
            "--resolution": SIDE,
            "--center_crop": True,
            "--train_batch_size": b.batch,
            # of one copy in one round: all trainings see the same number of samples
            "--max_train_steps": b.steps // (training.copies * rounds),
            **(ensemble if training.copies > 1 else {}),
            "--learning_rate": b.learning_rate,
            "--lr_scheduler": "constant_with_warmup",
            "--lr_warmup_steps": b.warmup,
            "--use_ema": True,
            "--save_steps": b.steps,
            "--modelsavesteps": b.steps // b.rounds if training.checkpoints else b.steps,
            "--num_workers": 0,
            "--seed": seed,
            "--report_to": "none",
            "--output_dir": folder,
        }
        return folder / "run.json", ["diff_train.py", *training.flags, *flag_words(recipe)]

    def arm_commands(self, name, seed):
        """Return [(file written last, command)] of an arm: generate its images, compare them with
        the training images, compute their Frechet distance."""
        b, arm, images = self.budget, ARMS[name], self.images(name, seed)
        generation = {
            "--modelpath": self.run(arm.training, seed),
            "--iternum": None if arm.part is None else b.steps // b.rounds * arm.part,
            "-nb": b.generated,
            "--batch_size": 64,
            "--scheduler": "DDIM",
            "--num_inference_steps": b.sampling_steps,
            "--seed": seed,
            "--savepath": images,
        }
        report, distance = self.reports(name, seed)
        compare = {"--val_dir": self.scenes(seed) / "train", "--metrics": "similarity,mq"}
        frechet = {"--val_dir": self.reference() / "train", "--metrics": "fd"}
        return [
            (images / "manifest.json", ["diff_inference.py", *flag_words(generation)]),
            (report / "metrics.json", self._evaluation(images, compare, report)),
            (distance / "metrics.json", self._evaluation(images, frechet, distance)),
        ]

    def _evaluation(self, images, flags, folder):
        common = {
            "--query_dir": images,
            "--pt_style": "pixel",
            "--num_matches": 1,
            "--mq_size": SIDE,
            "--no_align": True,
            "--num_workers": 0,
            "--report_to": "none",
        }
        return ["diff_retrieval.py", *flag_words(common | flags | {"--output_dir": folder})]

    def needs(self, name):
        """Return the training whose run an arm needs."""
        return ARMS[name].training

    def is_current(self, row):
        """Return whether a row belongs to an arm as this file defines it."""
        return row.arm in ARMS and row.key == self.key(row.arm, row.seed)

    def run_key(self, training, seed):
        """Return a hash of the commands of a run and of its network. It does not depend on the
        output folder."""
        here = Plan("out", self.budget, keyed=False)
        scenes = scene_command({}, self.budget.images, seed)
        network = (Path(__file__).resolve().parents[2] / NETWORK).read_text(encoding="utf-8")
        return hashed([scenes, here.training_command(training, seed)[1], [network]])

    def key(self, name, seed):
        """Return the key of an arm's row: a hash of all of its commands. It does not depend on the
        output folder."""
        here = Plan("out", self.budget, keyed=False)
        reference = scene_command({}, self.budget.reference, REFERENCE_SEED)
        commands = [command for _, command in here.arm_commands(name, seed)]
        return hashed([[self.run_key(self.needs(name), seed)], reference, *commands])
