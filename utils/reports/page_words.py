"""What report.html says first: the sentences that head it, and its tiles of numbers."""

from __future__ import annotations

from typing import Any

from utils.reports.page_parts import Nested, number

NamedNumbers = dict[str, Any]  # name: number
Tile = tuple[str, list[tuple[str, str]], bool]  # title, (value, words) of each line, stressed?

# endings of keys that are no metrics of their own
ADDED_ENDS = ("_lo", "_hi", "_n", "_dcr")
# settings.innocents_from -> what these pictures are
INNOCENTS = {
    "innocent_dir": "those of --innocent_dir",
    "holdout": "those that training set aside",
    "base_dir": "images of the base model",
    "training": "training images, each compared with the others but its near-duplicates",
}
COUNTERFACTUAL = "counterfactual"  # key of settings: whether the run duplicated no image
# key -> of which images it is the share of copies: of a run that duplicated some, and of one that
# recorded which ones its seed would have duplicated
BY_DUPLICATION = {
    False: {
        "copy_share_dup": "where it was duplicated",
        "copy_share_nodup": "where it was not",
    },
    True: {
        "copy_share_dup": "of images that the seed would have duplicated",
        "copy_share_nodup": "of the others; the run duplicated none",
    },
}
ENOUGH_INNOCENTS = 100  # with fewer it is said which rate can be told at all


def headline_parts(metrics: NamedNumbers, settings: Nested) -> tuple[str, str]:
    """How much was copied: the sentences that lead, and what is to be known of them; "" twice
    without a measure of similarity.

    By the calibrated threshold, where there is one, with its origin, then by the fixed one; a void
    fixed threshold is said first. That most images show nothing, so that the verdict is void, is
    said before all else. settings: of the evaluation."""
    lead, further = _verdict_parts(metrics, settings)
    show_nothing = settings.get("show_nothing")
    if not show_nothing:
        return lead, further
    found = (
        f"{show_nothing['images']:,} of {show_nothing['of']:,} generated images show nothing and"
        " are left out"
    )
    if show_nothing["void"]:
        void = f"This verdict is void: {found}, so that the numbers say nothing of the model."
        return " ".join(filter(None, [void, lead])), further
    return lead, " ".join(filter(None, [f"{found}.", further]))


def _verdict_parts(metrics: NamedNumbers, settings: Nested) -> tuple[str, str]:
    """The sentences of the copies that were found, and of their threshold."""
    fixed = _fixed_verdict(metrics, settings)
    if "copy_share_calibrated" not in metrics:
        return fixed, ""
    void = _void_verdict(metrics, settings) if settings.get("fixed_threshold_void") else ""
    lead = " ".join(filter(None, [void, _calibrated_verdict(metrics, settings)]))
    if "copy_share" not in metrics:
        return lead, _origin(metrics, settings)
    share = f"{_percent(metrics, 'copy_share')} ({_interval(metrics, 'copy_share')})"
    by_fixed = f"By the fixed threshold{_fixed_words(settings)}, it would be {share}."
    return lead, f"{_origin(metrics, settings)} {by_fixed}"


def _fixed_verdict(metrics: NamedNumbers, settings: Nested) -> str:
    """The sentence of the fixed threshold; without one, of the percentile."""
    if "copy_share" not in metrics:
        return (
            f"The 95th percentile of similarity is {metrics['sim_95pc']:.3f}."
            if "sim_95pc" in metrics
            else ""
        )
    share = (
        f"{_percent(metrics, 'copy_share')} of {metrics['copy_share_n']} images count as copies of"
        " a training image"
    )
    threshold = settings.get("copy_threshold")
    where = (
        f": their {settings.get('pt_style', '')} similarity is above {threshold:g}"
        if threshold is not None
        else ""
    )
    return f"{share} (95 % interval {_interval(metrics, 'copy_share')}){where}."


def _fixed_words(settings: Nested) -> str:
    threshold = settings.get("copy_threshold")
    if threshold is None:
        return ""
    return f", {settings.get('pt_style', '')} similarity above {threshold:g}"


def _void_verdict(metrics: NamedNumbers, settings: Nested) -> str:
    rate = f"{_percent(metrics, 'false_positive_rate')} of {metrics['innocents_n']}"
    return (
        f"The fixed threshold{_fixed_words(settings)}, is void here: {rate} pictures that nobody"
        " copied are above it."
    )


def _calibrated_verdict(metrics: NamedNumbers, settings: Nested) -> str:
    name = settings.get("threshold_of", "")
    where = "aligned with one, they agree" if name == "aligned" else f"their {name} similarity is"
    return (
        f"{_percent(metrics, 'copy_share_calibrated')} of {metrics['copy_share_calibrated_n']}"
        " images count as copies of a training image (95 % interval"
        f" {_interval(metrics, 'copy_share_calibrated')}): {where} above"
        f" {metrics['threshold']:.3f}."
    )


def _origin(metrics: NamedNumbers, settings: Nested) -> str:
    """Where the calibrated threshold comes from, and which rate so many innocents can tell."""
    count, source = metrics["innocents_n"], settings.get("innocents_from", "")
    asked = f"{100 * settings.get('false_positives', 0.01):g} %"
    few = (
        f" So few cannot tell a rate below {300 / count:.1f} % from none."  # rule of three
        if count < ENOUGH_INNOCENTS
        else ""
    )
    words = INNOCENTS.get(source, source)
    return (
        "The threshold is calibrated, so that it counts at most"
        f" {asked} of {count} pictures that nobody copied: {words}.{few}"
    )


def tiles(metrics: NamedNumbers, settings: Nested | None = None) -> list[Tile]:
    """The most important of the numbers that were computed. settings: of the evaluation, if they
    are known. Returns: (title, [(value, words)], whether to stress it because there are copies) for
    each."""
    shown = _verdict_tiles(metrics, settings or {})
    pairs = {
        "Similarity, 95th percentile": {
            "sim_95pc": "generated images",
            "bg_95pc": "training images among themselves",
        },
        "CLIP score": {"clipscore": "image and prompt", "clipscore_bg": "training images"},
    }
    for title, keys in pairs.items():
        if next(iter(keys)) in metrics:
            values = [(f"{metrics[k]:.3f}", words) for k, words in keys.items() if k in metrics]
            shown.append((title, values, False))
    distances = [
        k
        for k in metrics
        if k in ("fid", "fid_dcr") or (k.startswith("fd_") and not k.endswith(ADDED_ENDS))
    ]
    if distances:
        shown.append(("Frechet distance", [(number(metrics[k]), k) for k in distances], False))
    return shown


def _verdict_tiles(metrics: NamedNumbers, settings: Nested) -> list[Tile]:
    """The tiles of copies, by either threshold and by duplication of the prompt's image; of copied
    parts; of innocents."""
    shown: list[Tile] = []
    copies = _copies(metrics, settings)
    if copies:
        first = "copy_share_calibrated" if "copy_share_calibrated" in metrics else "copy_share"
        shown.append(("Copies", copies, metrics[first] > 0))
    if "part_copied_share" in metrics:
        words = f"hold a part of a training image ({_interval(metrics, 'part_copied_share')})"
        shown.append(("Part copied", [(_percent(metrics, "part_copied_share"), words)], False))
    innocents = _innocents(metrics)
    if innocents:
        shown.append(("Pictures that nobody copied", innocents, False))
    split = BY_DUPLICATION[bool(settings.get(COUNTERFACTUAL))]
    by_source = [
        (_percent(metrics, k), f"{words} ({_interval(metrics, k)})")
        for k, words in split.items()
        if k in metrics
    ]
    if by_source:
        shown.append(("Copies by the prompt's own image", by_source, False))
    return shown


def _copies(metrics: NamedNumbers, settings: Nested) -> list[tuple[str, str]]:
    """The lines of the tile of copies: by the calibrated threshold, by the fixed one."""
    lines = []
    for key in ("copy_share_calibrated", "copy_share"):
        if key in metrics:
            words = f"95 % interval {_interval(metrics, key)}, {metrics[f'{key}_n']} images"
            lines.append((_percent(metrics, key), words))
    if "copy_share_calibrated" not in metrics:
        return lines
    low, high = metrics["threshold_lo"], metrics["threshold_hi"]
    above = f"{settings.get('threshold_of', 'score')} above {metrics['threshold']:.3f}"
    value, words = lines[0]
    lines[0] = (value, f"{above} ({low:.3f} to {high:.3f}); {words}")
    if "copy_share" in metrics:
        value, words = lines[1]
        void = " (void)" if settings.get("fixed_threshold_void") else ""
        lines[1] = (value, f"by the fixed threshold{void}; {words}")
    return lines


def _innocents(metrics: NamedNumbers) -> list[tuple[str, str]]:
    """The lines of the tile of innocents: the share above either threshold."""
    thresholds = {
        "innocents_calibrated_rate": "above the calibrated threshold",
        "false_positive_rate": "above the fixed one",
    }
    count = metrics.get("innocents_n")
    return [
        (_percent(metrics, key), f"of {count} are {words}")
        for key, words in thresholds.items()
        if metrics.get(key) is not None
    ]


def _percent(metrics: NamedNumbers, key: str) -> str:
    return f"{100 * metrics[key]:.1f} %"


def _interval(metrics: NamedNumbers, key: str) -> str:
    return f"{100 * metrics[f'{key}_lo']:.1f} to {100 * metrics[f'{key}_hi']:.1f} %"
