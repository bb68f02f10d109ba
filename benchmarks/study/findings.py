"""The nine findings as claims that rows can be held against. Written before the first run of the
study; no threshold moves.

A claim says that one arm copies more than another. Copied is an image whose `pixel` similarity to
some training image is above 0.95, as everywhere on scenes. Both arms are compared prompt by prompt:
the difference between the shares of copies among the images of the prompt of one training image,
with one seed."""

from dataclasses import dataclass

import numpy as np
from scipy.stats import binomtest

from utils.runtime.seeding import numpy_rng

COPIED = 0.95
ROUNDS = 2000
LEVEL = 0.05
NO_WORSE = 0.05  # a Frechet distance at most 5 % above the other is no worse
HOLDS, FAILS, UNCLEAR = "holds", "fails", "unclear"


@dataclass(frozen=True)
class Claim:
    """`more` copies more than `less`: arms, or several whose mean it is. duplicated: on prompts of
    duplicated images alone.

    decides: whether the finding's word rests on it, as the papers say it; else it is shown beside.
    either: the finding says that the two differ, not which is more."""

    more: tuple
    less: tuple
    duplicated: bool = False
    decides: bool = True
    either: bool = False


@dataclass(frozen=True)
class Correlation:
    """Similarity falls with a complexity of the matched training image. measure: of Row; in one
    arm, all seeds."""

    arm: str
    measure: str
    decides: bool = True


@dataclass(frozen=True)
class NoWorse:
    """The Frechet distance of `arm` is at most NO_WORSE above that of `than` with every seed; with
    none: it fails.

    Of a distance there is one number a seed, and of three no interval or test: their least and most
    are shown."""

    arm: str
    than: str
    decides: bool = True


@dataclass(frozen=True)
class Result:
    """effect: published direction positive; low, high: 95 % interval; plus, minus, p: of the sign
    test; score: the same difference of mean similarity; None where there is none. Of NoWorse, low
    and high are the seeds' least and most."""

    claim: object
    effect: float
    low: float
    high: float
    plus: int | None
    minus: int | None
    p: float | None
    score: float | None
    word: str


@dataclass(frozen=True)
class Finding:
    title: str
    claims: tuple


def _chain(*arms, **options):
    """Each arm copies more than the next."""
    return tuple(
        Claim((more,), (less,), **options) for more, less in zip(arms, arms[1:], strict=False)
    )


def _below(more, arms, **options):
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
}


# Held against rows --------------------------------------------------------------------------------


def by_source(row, values, *, duplicated=False):
    """{training image: mean of the values of its prompt's images}. values: [Q]; duplicated: of
    those alone."""
    kept = np.flatnonzero(row.duplicated) if duplicated else range(len(values))
    found = {}
    for i in kept:
        found.setdefault(row.source[i], []).append(values[i])
    return {source: float(np.mean(several)) for source, several in found.items()}


def _mean_by_source(rows, values_of, duplicated):
    """The mean over arms of by_source, of the prompts that all of them have."""
    each = [by_source(row, values_of(row), duplicated=duplicated) for row in rows]
    return {s: np.mean([e[s] for e in each]) for s in each[0] if all(s in e for e in each)}


def paired(more, less, values_of, *, duplicated=False):
    """Differences prompt by prompt. more, less: rows of one seed. Returns: [N], of the prompts that
    both have."""
    one, other = (_mean_by_source(rows, values_of, duplicated) for rows in (more, less))
    return np.array([one[s] - other[s] for s in one if s in other])


def interval(seeds, statistic, *, rounds=ROUNDS):
    """95 % interval over seeds x prompts: seeds are drawn with replacement, then prompts within
    each.

    seeds: [array [N_s, ...]] a seed; statistic: [R, N_s, ...] -> [R], whose mean over seeds it is;
    where it is NaN, as the correlation with a constant, it is left out. Returns: (low, high), NaN
    if it never is a number."""
    rng, found = numpy_rng(0, "bootstrap"), np.full((rounds, len(seeds)), np.nan)
    chosen = rng.integers(len(seeds), size=found.shape)
    for number, values in enumerate(seeds):
        places = np.nonzero(chosen == number)
        if len(places[0]):
            found[places] = statistic(
                values[rng.integers(len(values), size=(len(places[0]), len(values)))]
            )
    numbers = found[~np.isnan(found).all(1)]
    return (
        tuple(float(v) for v in np.percentile(np.nanmean(numbers, 1), (2.5, 97.5)))
        if len(numbers)
        else (np.nan, np.nan)
    )


def mean(drawn):
    """The statistic of `interval` that is the mean. drawn: [R, N]. Returns: [R]."""
    return drawn.mean(1)


def percentile_95(drawn):
    """The statistic that is the linear 95th percentile of all images. drawn: [R, N, images of a
    prompt]. Returns: [R]."""
    return np.percentile(drawn.reshape(len(drawn), -1), 95, axis=1)


def sign_test(differences):
    """(how many are above 0, how many below, two-sided p of as many or fewer under a fair coin);
    ties are left out."""
    plus, minus = int((differences > 0).sum()), int((differences < 0).sum())
    return plus, minus, float(binomtest(plus, plus + minus).pvalue) if plus + minus else 1.0


def word_of(low, high, p, *, either=False):
    """The word for an effect: its interval must leave out 0 and its signs be unlikely by chance."""
    if not (p < LEVEL and (low > 0 or high < 0)):  # nor where they are no numbers
        return UNCLEAR
    return HOLDS if low > 0 or either else FAILS


def copied(row):
    return row.score > COPIED


def _hold_claim(claim, rows_of):
    """rows_of: arm -> {seed: Row}."""
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

    found = differences(copied)
    (low, high), (plus, minus, p) = interval(found, mean), sign_test(np.concatenate(found))
    score = float(np.mean([d.mean() for d in differences(lambda row: row.score)]))
    effect = float(np.mean([d.mean() for d in found]))
    return Result(
        claim, effect, low, high, plus, minus, p, score, word_of(low, high, p, either=claim.either)
    )


def pearson(pairs):
    """Pearson's r of [..., N, 2]. Returns: [...]; NaN where a column is constant."""
    x, y = np.moveaxis(pairs - pairs.mean(-2, keepdims=True), -1, 0)
    scale = np.sqrt((x * x).sum(-1) * (y * y).sum(-1))
    return np.divide((x * y).sum(-1), scale, out=np.full_like(scale, np.nan), where=scale > 0)


def halves(pairs):
    """Differences of similarity between the simpler and the more complex half of prompts, in order.
    pairs: [N, 2] of (complexity, similarity). Returns: [N // 2]."""
    ordered = pairs[np.argsort(pairs[:, 0], kind="stable"), 1]
    return ordered[: len(ordered) // 2] - ordered[(len(ordered) + 1) // 2 :]


def by_prompt(row, measure):
    """[N, 2]: of each prompt's images the mean complexity of what they matched, and their mean
    similarity."""
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
    low, high = float(above.min()), float(above.max())  # of three seeds no percentile says more
    word = HOLDS if high <= NO_WORSE else FAILS if low > NO_WORSE else UNCLEAR
    return Result(claim, -float(above.mean()), -high, -low, None, None, None, None, word)


HOLD = {Claim: _hold_claim, Correlation: _hold_correlation, NoWorse: _hold_no_worse}


def arms_of(claim):
    """Names of the arms that a claim compares."""
    return (
        (*claim.more, *claim.less)
        if isinstance(claim, Claim)
        else tuple(v for k, v in vars(claim).items() if k in ("arm", "than"))
    )


def seeds_of(finding, rows):
    """Seeds with which every arm that decides has a row, in order."""
    deciding = {arm for claim in finding.claims if claim.decides for arm in arms_of(claim)}
    return sorted(
        set.intersection(*({row.seed for row in rows if row.arm == arm} for arm in deciding))
    )


# arms of which the complexity of every matched image is kept
CORRELATED = {c.arm for f in FINDINGS.values() for c in f.claims if isinstance(c, Correlation)}


def hold(finding, rows):
    """[Result] of the claims whose arms have rows with a common seed. rows: [Row]."""

    def rows_of(arm):
        return {row.seed: row for row in rows if row.arm == arm}

    found = []
    for claim in finding.claims:
        if set.intersection(*(set(rows_of(arm)) for arm in arms_of(claim))):
            found.append(HOLD[type(claim)](claim, rows_of))
    return found


def verdict(finding, results):
    """One word for a finding: fails if a claim that decides fails, holds if all of them hold, else
    unclear."""
    words = [r.word for r in results if r.claim.decides]
    if FAILS in words:
        return FAILS
    complete = len(words) == sum(c.decides for c in finding.claims)
    return HOLDS if complete and set(words) == {HOLDS} else UNCLEAR
