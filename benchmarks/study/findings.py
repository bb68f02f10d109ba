"""The ten findings as claims that are tested against the rows of the study. The first nine were
written before the first run of the study, the tenth before its own first run, and no threshold has
moved since.

A claim says that one arm copies more than another. An image counts as copied if its `pixel`
similarity to some training image is above 0.95, as everywhere on scenes. Two arms are compared
prompt by prompt, within a seed: the difference between the shares of copies among the images that
each arm generated for the prompt of one training image."""

from dataclasses import dataclass

import numpy as np
from scipy.stats import binomtest

from benchmarks.study.experiments import RANKS, along
from utils.runtime.seeding import numpy_rng

COPIED = 0.95
FEWEST_SEEDS = 3  # that can decide a claim of which a seed is one number
ROUNDS = 2000
LEVEL = 0.05
NO_WORSE = 0.05  # a Frechet distance at most 5 % above the other one counts as no worse
HOLDS, FAILS, UNCLEAR = "holds", "fails", "unclear"


@dataclass(frozen=True)
class Claim:
    """`more` copies more than `less`. Each side names arms; of several arms the mean counts."""

    more: tuple
    less: tuple
    duplicated: bool = False  # only the prompts of duplicated images count
    decides: bool = True  # the verdict depends on it, as in the papers; else it is only shown
    either: bool = False  # the finding says that the arms differ, not which one copies more


@dataclass(frozen=True)
class Correlation:
    """Within an arm, similarity falls as the complexity of the matched training image rises."""

    arm: str
    measure: str  # field of Row
    decides: bool = True


@dataclass(frozen=True)
class NoWorse:
    """The Frechet distance of `arm` exceeds that of `than` by at most NO_WORSE with every seed. The
    claim fails if it exceeds it by more with every seed.

    A seed has only one distance, and three seeds allow no interval and no test: the table shows the
    least and the most of the seeds."""

    arm: str
    than: str
    decides: bool = True


@dataclass(frozen=True)
class AtEqualDistance:
    """`less` copies less than `more` where both have the same Frechet distance.

    Each side names the arms of one training along its steps. Where `less` has a distance that lies
    between the least and the most of `more`, the share of copies of `more` at that distance is
    interpolated between its arms, linearly; the mean of the differences is a number a seed. The
    claim holds if it is above 0 with every seed, and fails if it is below 0 with every seed; it is
    unclear of fewer than three seeds, and where one has no distance in common."""

    more: tuple
    less: tuple
    decides: bool = True


@dataclass(frozen=True)
class Result:
    """What the rows say about a claim."""

    claim: Claim | Correlation | NoWorse | AtEqualDistance
    effect: float  # positive: in the published direction
    # 95 % interval of the effect; where a seed is one number, the least and the most of the seeds
    low: float
    high: float
    plus: int | None  # sign test: differences above 0, below 0, and p; None: no test
    minus: int | None
    p: float | None
    score: float | None  # the same difference of mean similarity; None: not defined
    word: str


@dataclass(frozen=True)
class Finding:
    title: str
    claims: tuple


def _chain(*arms, **options):
    """Claim that each arm copies more than the next one."""
    return tuple(
        Claim((more,), (less,), **options) for more, less in zip(arms, arms[1:], strict=False)
    )


def _below(more, arms, **options):
    """Claim that each of the arms copies less than `more`."""
    return tuple(Claim((more,), (less,), **options) for less in arms)


TRAIN_TIME = ("train MC", "train GN", "train RC", "train CWR", "train random words", "train mixup")
FINDINGS = {
    1: Finding(
        "Duplicated images are copied more",
        (
            *_chain("dup_both", "dup_image", "nodup", duplicated=True),
            Claim(("dup_both",), ("nodup",), duplicated=True),
        ),
    ),
    2: Finding(
        "Random captions are copied more than an image's own, those more than a class's name, that"
        " more than none",
        (*_chain("instancelevel_random", "dup_both", "classlevel", "nolevel"),),
    ),
    3: Finding(
        "More training images, less copying",
        (
            *_chain("16 images", "nodup", "64 images"),
            Claim(("nodup",), ("256 images",)),
            *_chain("64 images", "128 images", "256 images", decides=False),
        ),
    ),
    4: Finding(
        "Longer training, more copying",
        (
            *_chain("dup_both", "dup_both at 3/5", "dup_both at 1/5"),
            *_chain("dup_both", *(f"dup_both at {i}/5" for i in (4, 3, 2, 1)), decides=False),
        ),
    ),
    5: Finding(
        "Mitigations in training lower it, multiple captions more than the others on average",
        (
            *_below("dup_both", TRAIN_TIME),
            Claim(TRAIN_TIME[1:], TRAIN_TIME[:1]),
        ),
    ),
    6: Finding(
        "Mitigations at inference lower it, words and numbers more than noise",
        (
            *_below("dup_both", ("RT 4", "CWR 4", "RNA 4", "GNI 0.1")),
            Claim(("GNI 0.1",), ("RT 4",)),
            Claim(("GNI 0.1",), ("RNA 4",)),
            *_below(
                "dup_both",
                ("RT 1", "RT 2", "CWR 1", "CWR 2", "RNA 1", "RNA 2", "GNI 0.3", "GNI 0.6"),
                decides=False,
            ),
        ),
    ),
    7: Finding(
        "Iterative ensembles lower it, anti-gradient control lowers it, both lower it most",
        (
            *_below("nodup", ("IET 4", "AGC 1.25", "IET 4 AGC 1.25")),
            Claim(("IET 4",), ("IET 4 AGC 1.25",)),
            Claim(("AGC 1.25",), ("IET 4 AGC 1.25",)),
            NoWorse("IET 4 AGC 1.25", "nodup"),
            *_below("nodup", ("IET 2", "IET 8", "AGC 1.1", "AGC 1.5", "AGC 2"), decides=False),
            Claim(("IET 2",), ("IET 2 AGC 1.25",), decides=False),
            *(
                NoWorse(arm, "nodup", decides=False)
                for arm in (
                    "IET 2",
                    "IET 4",
                    "IET 8",
                    "AGC 1.1",
                    "AGC 1.25",
                    "AGC 1.5",
                    "AGC 2",
                    "IET 2 AGC 1.25",
                )
            ),
        ),
    ),
    8: Finding(
        "Simple images are copied more",
        (
            *(Correlation("nodup", m) for m in ("entropy", "jpeg_kib", "total_variation")),
            *(
                Correlation(arm, m, decides=False)
                for arm in ("dup_both", "base")
                for m in ("entropy", "jpeg_kib", "total_variation")
            ),
        ),
    ),
    9: Finding(
        "Guidance and the number of steps change it",
        (
            Claim(("dup_both",), ("guidance 1",), either=True),
            Claim(("dup_both",), ("guidance 7.5",), either=True),
            Claim(("dup_both",), ("fewer steps",), either=True),
            Claim(("dup_both",), ("more steps",), either=True),
        ),
    ),
    10: Finding(
        "Low-rank adaptation copies less than full weights at equal distance, a lower rank less",
        (
            *(AtEqualDistance(along("dup_both"), along(f"LoRA {rank}")) for rank in (4, 16)),
            AtEqualDistance(along("LoRA 64"), along("LoRA 4")),
            *(
                AtEqualDistance(along("dup_both"), along(f"LoRA {rank}"), decides=False)
                for rank in (1, 64)
            ),
            *_below("dup_both", tuple(f"LoRA {rank}" for rank in RANKS), decides=False),
        ),
    ),
}


# Testing claims against rows ----------------------------------------------------------------------


def by_source(row, values, *, duplicated=False):
    """Average values over the images of each prompt: {training image of the prompt: mean}.

    values: [Q]; duplicated: only the prompts of duplicated images."""
    kept = np.flatnonzero(row.duplicated) if duplicated else range(len(values))
    groups = {}
    for i in kept:
        groups.setdefault(row.source[i], []).append(values[i])
    return {source: float(np.mean(group)) for source, group in groups.items()}


def _mean_by_source(rows, values_of, duplicated):
    """Average by_source over arms, for the prompts that all arms have."""
    each = [by_source(row, values_of(row), duplicated=duplicated) for row in rows]
    return {s: np.mean([e[s] for e in each]) for s in each[0] if all(s in e for e in each)}


def paired(more, less, values_of, *, duplicated=False):
    """Return the differences between two sides, one for each prompt that both have: [N].

    more, less: rows of one seed."""
    one, other = (_mean_by_source(rows, values_of, duplicated) for rows in (more, less))
    return np.array([one[s] - other[s] for s in one if s in other])


def interval(seeds, statistic, *, rounds=ROUNDS):
    """Compute a bootstrap 95 % interval over seeds and prompts: seeds are drawn with replacement,
    then prompts within each seed.

    seeds: for each seed an array [N_s, ...];
    statistic: [R, N_s, ...] -> [R]; its mean over the drawn seeds is used, without NaN (such as the
        correlation with a constant).
    Returns: (low, high), NaN if the statistic is always NaN."""
    rng, drawn = numpy_rng(0, "bootstrap"), np.full((rounds, len(seeds)), np.nan)
    chosen = rng.integers(len(seeds), size=drawn.shape)
    for number, values in enumerate(seeds):
        places = np.nonzero(chosen == number)
        if len(places[0]):
            prompts = rng.integers(len(values), size=(len(places[0]), len(values)))
            drawn[places] = statistic(values[prompts])
    numbers = drawn[~np.isnan(drawn).all(1)]
    if not len(numbers):
        return np.nan, np.nan
    low, high = np.percentile(np.nanmean(numbers, 1), (2.5, 97.5))
    return float(low), float(high)


def mean(drawn):
    """The mean, as a statistic of `interval`. drawn: [R, N]. Returns: [R]."""
    return drawn.mean(1)


def percentile_95(drawn):
    """The linear 95th percentile of all images, as a statistic of `interval`.

    drawn: [R, N, images per prompt]. Returns: [R]."""
    return np.percentile(drawn.reshape(len(drawn), -1), 95, axis=1)


def sign_test(differences):
    """Count the differences above 0 and below 0, without ties, and test against a fair coin.

    Returns: (above, below, two-sided p)."""
    plus, minus = int((differences > 0).sum()), int((differences < 0).sum())
    return plus, minus, float(binomtest(plus, plus + minus).pvalue) if plus + minus else 1.0


def word_of(low, high, p, *, either=False):
    """Choose the word for an effect. It is clear only if its interval excludes 0 and p < LEVEL."""
    if not (p < LEVEL and (low > 0 or high < 0)):  # also if they are NaN
        return UNCLEAR
    return HOLDS if low > 0 or either else FAILS


def copied(row):
    """Return which images of a row are copies: [Q] bool."""
    return row.score > COPIED


def _hold_claim(claim, rows_of):
    """Return the Result of a Claim. rows_of: arm -> {seed: Row}."""
    arms = [rows_of(arm) for arm in (*claim.more, *claim.less)]
    seeds = sorted(set.intersection(*(set(a) for a in arms)))
    split = len(claim.more)

    def differences(values_of):
        return [
            paired(
                [a[s] for a in arms[:split]],
                [a[s] for a in arms[split:]],
                values_of,
                duplicated=claim.duplicated,
            )
            for s in seeds
        ]

    shares = differences(copied)
    (low, high), (plus, minus, p) = interval(shares, mean), sign_test(np.concatenate(shares))
    score = float(np.mean([d.mean() for d in differences(lambda row: row.score)]))
    effect = float(np.mean([d.mean() for d in shares]))
    return Result(
        claim, effect, low, high, plus, minus, p, score, word_of(low, high, p, either=claim.either)
    )


def pearson(pairs):
    """Compute Pearson's r of pairs [..., N, 2]. Returns: [...], NaN where a column is constant."""
    x, y = np.moveaxis(pairs - pairs.mean(-2, keepdims=True), -1, 0)
    scale = np.sqrt((x * x).sum(-1) * (y * y).sum(-1))
    return np.divide((x * y).sum(-1), scale, out=np.full_like(scale, np.nan), where=scale > 0)


def halves(pairs):
    """Return the differences of similarity between the simpler and the more complex half of the
    prompts, in the order of complexity.

    pairs: [N, 2] of (complexity, similarity). Returns: [N // 2]."""
    ordered = pairs[np.argsort(pairs[:, 0], kind="stable"), 1]
    return ordered[: len(ordered) // 2] - ordered[(len(ordered) + 1) // 2 :]


def by_prompt(row, measure):
    """Return for each prompt the mean complexity of the matched training images, and the mean
    similarity: [N, 2]."""
    x, y = by_source(row, getattr(row, measure)), by_source(row, row.score)
    return np.array([(x[s], y[s]) for s in x])


def _hold_correlation(claim, rows_of):
    seeds = [by_prompt(row, claim.measure) for row in rows_of(claim.arm).values()]
    low, high = interval(seeds, lambda pairs: -pearson(pairs))
    plus, minus, p = sign_test(np.concatenate([halves(pairs) for pairs in seeds]))
    effect = float(np.mean([-pearson(pairs) for pairs in seeds]))
    return Result(claim, effect, low, high, plus, minus, p, None, word_of(low, high, p))


def _hold_no_worse(claim, rows_of):
    arm, than = rows_of(claim.arm), rows_of(claim.than)
    above = np.array(
        [arm[s].metrics["fd"] / than[s].metrics["fd"] - 1 for s in sorted(set(arm) & set(than))]
    )
    low, high = float(above.min()), float(above.max())  # with three seeds, percentiles add nothing
    word = HOLDS if high <= NO_WORSE else FAILS if low > NO_WORSE else UNCLEAR
    return Result(claim, -float(above.mean()), -high, -low, None, None, None, None, word)


def at_distances(distances, rows):
    """Return the shares of copies of a training where its distance is each of `distances`, [N]; NaN
    where it never is. rows: of its arms."""
    points = sorted((row.metrics["fd"], float(copied(row).mean())) for row in rows)
    known, shares = zip(*points, strict=True)
    return np.interp(distances, known, shares, left=np.nan, right=np.nan)


def _hold_at_equal_distance(claim, rows_of):
    more, less = ([rows_of(arm) for arm in arms] for arms in (claim.more, claim.less))
    effects = []
    for seed in sorted(set.intersection(*(set(arm) for arm in (*more, *less)))):
        distances = [arm[seed].metrics["fd"] for arm in less]
        own = np.array([copied(arm[seed]).mean() for arm in less])
        above = at_distances(distances, [arm[seed] for arm in more]) - own
        effects.append(
            float(above[~np.isnan(above)].mean()) if not np.isnan(above).all() else np.nan
        )
    return of_seeds(claim, effects)


def of_seeds(claim, effects):
    """Return the Result of a claim of which each seed is one number: it holds if all are above 0,
    fails if all are below, and is unclear of fewer than three seeds. effects: one for each seed,
    nan where it is not defined."""
    known = [effect for effect in effects if not np.isnan(effect)] or [np.nan]
    low, high = min(known), max(known)
    word = UNCLEAR
    if len(known) == len(effects) >= FEWEST_SEEDS:
        word = HOLDS if low > 0 else FAILS if high < 0 else UNCLEAR
    return Result(claim, float(np.mean(known)), low, high, None, None, None, None, word)


HOLD = {
    Claim: _hold_claim,
    Correlation: _hold_correlation,
    NoWorse: _hold_no_worse,
    AtEqualDistance: _hold_at_equal_distance,
}


def arms_of(claim):
    """Return the names of the arms that a claim compares."""
    if isinstance(claim, Claim | AtEqualDistance):
        return (*claim.more, *claim.less)
    return tuple(v for k, v in vars(claim).items() if k in ("arm", "than"))


def seeds_of(finding, rows):
    """Return the seeds for which every deciding arm has a row, in order."""
    deciding = {arm for claim in finding.claims if claim.decides for arm in arms_of(claim)}
    return sorted(
        set.intersection(*({row.seed for row in rows if row.arm == arm} for arm in deciding))
    )


# arms whose rows keep the complexity of every matched image
CORRELATED = {c.arm for f in FINDINGS.values() for c in f.claims if isinstance(c, Correlation)}


def hold(finding, rows):
    """Test the claims whose arms have rows with a common seed. rows: [Row]. Returns: [Result]."""

    def rows_of(arm):
        return {row.seed: row for row in rows if row.arm == arm}

    return [
        HOLD[type(claim)](claim, rows_of)
        for claim in finding.claims
        if set.intersection(*(set(rows_of(arm)) for arm in arms_of(claim)))
    ]


def verdict(finding, results):
    """Return one word for a finding: fails if a deciding claim fails, holds if all deciding claims
    hold, else unclear."""
    words = [r.word for r in results if r.claim.decides]
    if FAILS in words:
        return FAILS
    complete = len(words) == sum(c.decides for c in finding.claims)
    return HOLDS if complete and set(words) == {HOLDS} else UNCLEAR
