"""report.html: one self-contained page of an evaluation, from the headline to the settings that
made it.

report.css and report.js stand beside this module and are copied into each page, so that it opens
from anywhere without a network. Prompts, captions and file names are untrusted: they are escaped
here and enter the table as text alone."""

import base64
import hashlib
import html
import json
import math
from pathlib import Path

from utils.files.whole_files import write_text

HERE = Path(__file__).parent

EXPLAINED = {
    "sim_mean": "similarity of a generation to its nearest training image, mean",
    "sim_std": "the same, standard deviation",
    "sim_75pc": "the same, 75th percentile",
    "sim_90pc": "the same, 90th percentile",
    "sim_95pc": "the same, 95th percentile",
    "sim_gt_05pc": "share of generations whose similarity is above 0.5, whatever the descriptor",
    "copy_share": (
        "share of generations that count as copies: their similarity is above the threshold"
    ),
    "copy_share_dup": (
        "share of copies among generations whose prompt's own training image was duplicated"
    ),
    "copy_share_nodup": (
        "share of copies among generations whose prompt's own training image was not duplicated"
    ),
    "sim_dup": (
        "mean similarity where the matched image was duplicated; confounded by selection: the match"
        " is chosen by it"
    ),
    "sim_nodup": (
        "mean similarity where the matched image was not duplicated; confounded by selection as"
        " well"
    ),
    "source_matched": "share of generations whose nearest training image is that of their prompt",
    "source_score_mean": "similarity to the prompt's own training image, mean",
    "bg_mean": "similarity of a training image to the nearest other one, mean",
    "bg_std": "the same, standard deviation",
    "bg_75pc": "the same, 75th percentile",
    "bg_90pc": "the same, 90th percentile",
    "bg_95pc": "the same, 95th percentile",
    "fid": (
        "Frechet distance to the training images on InceptionV3 features; lower is closer, and few"
        " images raise it"
    ),
    "fid_dcr": (
        "Frechet distance on the published scale, whose inputs are scaled twice; not comparable"
        " with fid"
    ),
    "kid_mean": "kernel distance (cubic kernel) to the training images over random subsets, mean",
    "kid_std": "the same, standard deviation over the subsets",
    "precision": "share of generations within the training images' neighbourhoods (k = 3)",
    "recall": "share of training images within the generations' neighbourhoods (k = 3)",
    "density": (
        "how many neighbourhoods of training images a generation lies in, over k (k = 5); may"
        " exceed 1"
    ),
    "coverage": "share of training images with a generation in their neighbourhood (k = 5)",
    "clipscore": "cosine of image and source prompt in CLIP, mean",
    "clipscore_edited": "cosine of image and edited prompt in CLIP, mean",
    "clipscore_bg": "cosine of training image and its caption in CLIP, mean",
    "cc_ent": "correlation of similarity with the matched image's entropy (Pearson's r)",
    "cc_comp": "correlation of similarity with the matched image's size as JPEG",
    "cc_tvl": "correlation of similarity with the matched image's total variation",
    "cc_mixed": "correlation of similarity with entropy times the root of the size as JPEG",
}
ENDS = {
    "_lo": "low end of the 95 % interval of {}",
    "_hi": "high end of the 95 % interval of {}",
    "_n": "number of images behind {}",
    "_dcr": "{} with the published crop, that of the descriptor",
}
MARKS = ' <span class="over">A marked score</span> is above the threshold of a copy.'
MATCHES = """<p class="faint">{which}, each with its nearest training image.{marks} "duplicated" speaks of the
training image. A click on a row, or Enter on its pictures, shows both images side by side.</p>
<noscript><p>The table needs JavaScript, which is off. The gallery and matches.csv work without it.</p></noscript>
<div id="table" hidden>
<div class="filters">
<label>prompt or name contains <input id="contains" type="search" autocomplete="off"></label>
<label>min score <input id="min-score" type="number" step="0.01"></label>
<label>max score <input id="max-score" type="number" step="0.01"></label>
<output id="count" for="contains min-score max-score"></output>
</div>
<div class="scroll tall"><table><thead><tr id="columns"></tr></thead><tbody id="rows"></tbody></table></div>
</div>
<dialog id="pair" aria-labelledby="position">
<div class="bar"><h2 id="position" aria-live="polite"></h2>
<button type="button" id="previous" aria-label="previous pair">&#8592;</button>
<button type="button" id="next" aria-label="next pair">&#8594;</button>
<button type="button" id="close" autofocus>Close</button></div>
<dl id="facts"></dl>
<div class="sides">
<figure><img id="query-image" alt=""><figcaption><strong>generated image</strong>
<span class="name" id="query-name"></span><p id="query-text"></p></figcaption></figure>
<figure><img id="match-image" alt=""><figcaption><strong>nearest training image</strong>
<span class="name" id="match-name"></span><p id="match-text"></p></figcaption></figure>
</div>
</dialog>"""


def number(value):
    """A number for reading: counts whole, the rest with four significant digits."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return f"{value:d}" if isinstance(value, int) else f"{value:.4g}"


def words_of(key):
    """What a key of metrics.json means; "" for one that is not known."""
    if key in EXPLAINED:
        return EXPLAINED[key]
    for end, words in ENDS.items():
        if key.endswith(end) and words_of(key.removesuffix(end)):
            return words.format(key.removesuffix(end))
    family, _, rest = key.rpartition("_")
    if family in ("mq", "mq_rate"):
        what = "share" if family == "mq_rate" else "number"
        return (
            f"{what} of generations much nearer to one training image than to the 50 nearest: ratio"
            f" below 0.{rest[1:]}"
        )
    if family == "pval":
        return f"p value of cc_{rest}"
    return (
        "Frechet distance to the training images on this network's features"
        if key.startswith("fd_")
        else ""
    )


def headline(metrics, settings):
    """One sentence that says how much was copied."""
    if "copy_share" not in metrics:
        return (
            f"The 95th percentile of similarity is {metrics['sim_95pc']:.3f}."
            if "sim_95pc" in metrics
            else ""
        )
    found = (
        f"{_percent(metrics, 'copy_share')} of {metrics['copy_share_n']} images count as copies of"
        " a training image"
    )
    threshold = settings.get("copy_threshold")
    where = (
        f": their {settings.get('pt_style', '')} similarity is above {threshold:g}"
        if threshold is not None
        else ""
    )
    return f"{found} (95 % interval {_interval(metrics, 'copy_share')}){where}."


def tiles(metrics):
    """The most telling numbers that exist. Returns: [(title, [(value, words)], whether it speaks of
    copies)]."""
    found = []
    if "copy_share" in metrics:
        words = (
            f"95 % interval {_interval(metrics, 'copy_share')}, {metrics['copy_share_n']} images"
        )
        found.append(
            ("Copies", [(_percent(metrics, "copy_share"), words)], metrics["copy_share"] > 0)
        )
    split = {"copy_share_dup": "where it was duplicated", "copy_share_nodup": "where it was not"}
    by_source = [
        (_percent(metrics, k), f"{words} ({_interval(metrics, k)})")
        for k, words in split.items()
        if k in metrics
    ]
    if by_source:
        found.append(("Copies by the prompt's own image", by_source, False))
    pairs = {
        "Similarity, 95th percentile": {
            "sim_95pc": "generated images",
            "bg_95pc": "training images among themselves",
        },
        "CLIP score": {"clipscore": "image and prompt", "clipscore_bg": "training images"},
    }
    for title, keys in pairs.items():
        if next(iter(keys)) in metrics:
            found.append(
                (
                    title,
                    [(f"{metrics[k]:.3f}", words) for k, words in keys.items() if k in metrics],
                    False,
                )
            )
    distances = [
        k
        for k in metrics
        if k in ("fid", "fid_dcr") or (k.startswith("fd_") and not k.endswith(tuple(ENDS)))
    ]
    if distances:
        found.append(("Frechet distance", [(number(metrics[k]), k) for k in distances], False))
    return found


def _percent(metrics, key):
    return f"{100 * metrics[key]:.1f} %"


def _interval(metrics, key):
    return f"{100 * metrics[f'{key}_lo']:.1f} to {100 * metrics[f'{key}_hi']:.1f} %"


def flat(nested, *, prefix=""):
    """Settings as pairs (name, text): a dict within as a.b, other containers as JSON; None is left
    out."""
    for key, value in nested.items():
        if isinstance(value, dict):
            yield from flat(value, prefix=f"{prefix}{key}.")
        elif value is not None:
            yield (
                f"{prefix}{key}",
                (
                    json.dumps(value, default=str)
                    if isinstance(value, list | tuple)
                    else number(value)
                ),
            )


def script_json(data):
    """JSON for a script element: ASCII, which escapes U+2028, U+2029 and half surrogates, without
    <, > and &."""
    text = json.dumps(data, allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _table_data(rows, pictures, threshold):
    finite = [
        {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}
        for row in rows
    ]
    encoded = {name: base64.b64encode(data).decode() for name, data in pictures.items()}
    return script_json({"threshold": threshold, "rows": finite, "pictures": encoded})


def _image(data, kind, words):
    return (
        f'<p><img src="data:image/{kind};base64,{base64.b64encode(data).decode()}"'
        f' alt="{html.escape(words)}"></p>'
    )


def _plot(path, words):
    return _image(path.read_bytes(), "png", words)


def _gallery(pages):
    images = [
        _image(page, "jpeg", f"gallery page {i}: queries and their matches")
        for i, page in enumerate(pages, 1)
    ]
    rest = (
        f"<details><summary>{len(images) - 1} more</summary>{''.join(images[1:])}</details>"
        if images[1:]
        else ""
    )
    return images and (
        '<p class="faint">Left a generated image, then the training images most similar to it,'
        " with scores; in a vermilion frame where the score is above the threshold. The most"
        " similar queries come first; further pages lie in gallery/ beside this"
        f" page.</p>{images[0]}{rest}"
    )


def _tile(title, values, accent):
    inside = "".join(
        f"<p><strong>{html.escape(v)}</strong> <span>{html.escape(w)}</span></p>" for v, w in values
    )
    return (
        "<div"
        f' class="tile{" accent" if accent else ""}"><h3>{html.escape(title)}</h3>{inside}</div>'
    )


def _list(triples, *, kind="text"):
    """A table of name, words and value; kind: "number" aligns the values right."""
    rows = "\n".join(
        f'<tr><th scope="row"><code>{html.escape(str(key))}</code> <span'
        f' class="faint">{html.escape(words)}</span></th><td'
        f' class="{kind}">{html.escape(str(value))}</td></tr>'
        for key, words, value in triples
    )
    return rows and f'<table class="list">{rows}</table>'


def _sha256(text):
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def write_report(path, *, metrics, settings, counts, left_out, plots, pages, rows, pictures, total):
    """Write the page, whole.

    metrics, counts: flat dicts of numbers; settings: a dict, nested ones within; left_out: {metric:
    reason}; plots: [(PNG path, words for who cannot see it)], first the histogram of similarity;
    pages: of the gallery, JPEG bytes; rows: a dict a query with its best match, most similar first:
    query, match, score, query_picture, match_picture, and prompt, caption, source_image,
    source_score, seed, duplicated, clipscore, each or None; pictures: {name: JPEG bytes}; total:
    how many queries there are in all."""
    threshold = settings.get("copy_threshold")
    which = (
        f"The {len(rows):,} most similar of {total:,}" if total > len(rows) else f"All {total:,}"
    )
    sections = {
        "Similarity": "".join(_plot(*plot) for plot in plots[:1]),
        "Matches": (
            rows
            and MATCHES.format(
                which=f"{which} generated images", marks="" if threshold is None else MARKS
            )
        ),
        "Gallery": _gallery(pages),
        "Plots": "".join(_plot(*plot) for plot in plots[1:]),
        "Numbers": _list([(k, words_of(k), number(v)) for k, v in metrics.items()], kind="number"),
        "Left out": _list([(k, "", why) for k, why in left_out.items()]),
        "Counts": _list([(k, "", v) for k, v in flat(counts)], kind="number"),
        "Settings": _list([(k, "", v) for k, v in flat(settings)]),
    }
    sections = {
        title: (title.replace(" ", "-").lower(), body) for title, body in sections.items() if body
    }
    query_dir, val_dir = (
        html.escape(str(settings.get(key, ""))) for key in ("query_dir", "val_dir")
    )
    script, style = (
        (HERE / name).read_text(encoding="utf-8") for name in ("report.js", "report.css")
    )
    # the browser itself then refuses any other script, and any request
    policy = (
        f"default-src 'none'; img-src data:; style-src 'sha256-{_sha256(style)}'; script-src"
        f" 'sha256-{_sha256(script)}'"
    )
    text = f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<title>Copying of training images</title><style>{style}</style></head><body>
<h1>Copying of training images</h1>
<p class="lead">{html.escape(headline(metrics, settings))}</p>
<p class="faint">{query_dir} against {val_dir}</p>
<div class="tiles">{"".join(_tile(*tile) for tile in tiles(metrics))}</div>
<nav aria-label="sections">{" ".join(f'<a href="#{name}">{title}</a>' for title, (name, _) in sections.items())}</nav>
{"".join(f'<section id="{name}"><h2>{title}</h2>{body}</section>' for title, (name, body) in sections.items())}
<script type="application/json" id="data">{_table_data(rows, pictures, threshold)}</script>
<script>{script}</script>
</body></html>
"""
    write_text(path, text)
