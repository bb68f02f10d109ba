"""report.html: one self-contained page with the numbers, the histogram, the gallery and the settings."""

import base64
import html

EXPLAINED = {
    "sim_mean": "similarity of a generation to its nearest training image, mean",
    "sim_95pc": "the same, 95th percentile",
    "sim_gt_05pc": "share of generations whose similarity is above 0.5",
    "copy_share": "share of generations that count as copies",
    "copy_share_dup": "the same, of prompts whose own training image was duplicated",
    "copy_share_nodup": "the same, of the other prompts",
    "sim_dup": "mean similarity where the matched image was duplicated (published; selection confounds it)",
    "sim_nodup": "mean similarity where it was not",
    "source_matched": "share of generations whose nearest training image is that of their prompt",
    "source_score_mean": "similarity to the prompt's own training image, mean",
    "bg_mean": "similarity of a training image to the nearest other one, mean",
    "bg_95pc": "the same, 95th percentile",
}

STYLE = """
:root { color-scheme: light dark; --ink: #222; --paper: #fff; --faint: #666; --line: #ddd; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e6e6; --paper: #161616; --faint: #a0a0a0; --line: #3a3a3a; } }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper);
       max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2rem; }
.lead { font-size: 1.15rem; } .faint { color: var(--faint); }
table { border-collapse: collapse; width: 100%; }
td, th { text-align: left; padding: .25rem .6rem; border-bottom: 1px solid var(--line); vertical-align: top;
         overflow-wrap: anywhere; }
td.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
img { max-width: 100%; height: auto; background: #fff; border-radius: 4px; }
"""


def number(value):
    """A number for reading: counts whole, the rest with four significant digits."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return f"{value:d}" if isinstance(value, int) else f"{value:.4g}"


def _embedded(path, words):
    data = base64.b64encode(path.read_bytes()).decode()
    return f'<p><img src="data:image/png;base64,{data}" alt="{html.escape(words, quote=True)}"></p>'


def _rows(pairs):
    return "\n".join(
        f'<tr><td><code>{html.escape(str(k))}</code></td><td class="number">{html.escape(number(v))}</td>'
        f'<td class="faint">{html.escape(words)}</td></tr>'
        for k, v, words in pairs
    )


def _words_of(key):
    if key.startswith("fd_"):
        return "Frechet distance to the training images on this network's features"
    for end, words in (("_lo", "low end of its 95 % interval"), ("_hi", "high end of its 95 % interval"), ("_n", "images")):
        if key.endswith(end):
            return words
    return EXPLAINED.get(key, "")


def headline(metrics, settings):
    """One sentence that says how much was copied."""
    if "copy_share" not in metrics:
        return f"The 95th percentile of similarity is {metrics['sim_95pc']:.3f}." if "sim_95pc" in metrics else ""
    low, high = 100 * metrics["copy_share_lo"], 100 * metrics["copy_share_hi"]
    return (
        f"{100 * metrics['copy_share']:.1f} % of {metrics['copy_share_n']} images count as copies of a training image "
        f"(95 % interval {low:.1f} to {high:.1f} %): their {settings['pt_style']} similarity is above "
        f"{settings['copy_threshold']:g}."
    )


def write_report(path, *, metrics, settings, counts, histogram, pages):
    """Write the page. metrics, settings, counts: flat dicts; histogram, pages: PNG paths. Text is escaped throughout."""
    from utils.manifest import write_text

    gallery = "\n".join(_embedded(p, f"gallery page {i + 1}: queries and their matches") for i, p in enumerate(pages))
    text = f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Copying of training images</title><style>{STYLE}</style></head><body>
<h1>Copying of training images</h1>
<p class="lead">{html.escape(headline(metrics, settings))}</p>
<p class="faint">{html.escape(str(settings["query_dir"]))} against {html.escape(str(settings["val_dir"]))}</p>
<h2>Similarity to the nearest training image</h2>
{_embedded(histogram, "histogram of similarities")}
<h2>Generated images and their matches</h2>
<p class="faint">Left a generated image, then the training images most similar to it, with scores. A vermilion frame marks
a score above the threshold. {len(pages)} pages of ten queries, the most similar queries first.</p>
{gallery}
<h2>Numbers</h2>
<table>{_rows((k, v, _words_of(k)) for k, v in metrics.items())}</table>
<h2>Counts</h2>
<table>{_rows((k, v, "") for k, v in counts.items())}</table>
<h2>Settings</h2>
<table>{_rows((k, v, "") for k, v in settings.items() if v is not None)}</table>
</body></html>
"""
    write_text(path, text)
