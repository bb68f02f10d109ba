"""Similarity of descriptors: best matches in blocks, in a fixed order, and what the field reports of them."""

import numpy as np

# torch is imported where it is used: the options read SIMILARITIES, and --help must answer at once


def normalised(descriptors):
    """Rows divided by their L2 norm, float32; a zero row stays zero. [N, D] -> [N, D]."""
    return descriptors.float() / descriptors.float().norm(dim=1, keepdim=True).clamp_min(1e-12)


def _order_keys(scores, indices):
    """int64 keys that sort as (score ascending, index descending), so that topk breaks ties by index.

    A float's bits sort as the float does once negative ones are flipped; the index fills the lower half.
    """
    import torch

    bits = (scores + 0.0).view(torch.int32).long()  # + 0.0 makes -0.0 equal 0.0
    sortable = torch.where(bits < 0, -2147483649 - bits, bits)
    return sortable * 4294967296 + (4294967295 - indices)


def _scores_and_indices(keys):
    import torch

    indices = 4294967295 - (keys & 4294967295)
    sortable = keys >> 32
    bits = torch.where(sortable < 0, -2147483649 - sortable, sortable).to(torch.int32)
    return bits.view(torch.float32), indices


def top_matches(query, train, *, k, chunk_size=4096, exclude_self=False):
    """The k best matches of every query by dot product, ordered by (score descending, index ascending).

    query: [Q, D], train: [M, D], float32, normalised. exclude_self: query i is not matched with training image i.
    Holds Q x (k + chunk_size) scores, never Q x M. Returns: scores [Q, k'] float32, indices [Q, k'] int64, with
    k' = min(k, candidates).
    """
    import torch

    best = torch.empty(len(query), 0, dtype=torch.int64, device=query.device)
    for start in range(0, len(train), chunk_size):
        chunk = train[start : start + chunk_size]
        indices = torch.arange(start, start + len(chunk), device=query.device)
        keys = _order_keys(query @ chunk.T, indices)
        if exclude_self:
            rows = torch.arange(len(query), device=query.device)
            keys = keys.masked_fill(rows[:, None] == indices[None], torch.iinfo(torch.int64).min)
        merged = torch.cat([best, keys], 1)
        best = merged.topk(min(k, merged.shape[1]), dim=1).values
    return _scores_and_indices(best[:, : min(k, len(train) - exclude_self)])


# --similarity_metric -> (query, train, k=, exclude_self=) -> scores, indices
SIMILARITIES = {"dotproduct": top_matches}


def summary(scores, prefix):
    """mean, std (ddof 0) and linear percentiles 75, 90, 95 of best scores. scores: [Q]. Returns: flat dict."""
    scores = np.asarray(scores, np.float64)
    row = {f"{prefix}_mean": scores.mean(), f"{prefix}_std": scores.std()}
    row |= {f"{prefix}_{p}pc": np.percentile(scores, p) for p in (75, 90, 95)}
    return {k: float(v) for k, v in row.items()}


def bootstrap_share(hits, clusters, *, seed, rounds=2000):
    """95 % interval of the mean of `hits`, resampling prompts: images of one prompt are not independent.

    hits: [Q] bool; clusters: [Q], the prompt of each image. Returns: (low, high), the 2.5 and 97.5 percentiles.
    """
    from utils.seeding import numpy_rng

    _, number = np.unique(np.asarray(clusters), return_inverse=True)
    sums = np.bincount(number, weights=np.asarray(hits, float))
    sizes = np.bincount(number)
    drawn = numpy_rng(seed, "bootstrap").multinomial(len(sums), np.full(len(sums), 1 / len(sums)), size=rounds)
    shares = (drawn @ sums) / (drawn @ sizes)
    return tuple(float(v) for v in np.percentile(shares, (2.5, 97.5)))
