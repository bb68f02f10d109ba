"""Similarity of descriptors: best matches in blocks, in a fixed order, and what the field reports
of them."""

import functools
import itertools

import numpy as np

from utils.runtime.errors import UsageError

# torch is imported where it is used: the options read SIMILARITIES, and --help must answer at once
BLOCK_ROWS = 4096


def normalised(descriptors):
    """Rows divided by their L2 norm, float32; a zero row stays zero. [N, D] -> [N, D]."""
    return descriptors.float() / descriptors.float().norm(dim=1, keepdim=True).clamp_min(1e-12)


# Scores of a block: (query [Q, D], train [T, D]) -> [Q, T] ----------------------------------------


def dot_product(query, train):
    """Cosine similarity of normalised descriptors. [Q, D], [T, D] -> [Q, T]."""
    return query @ train.T


def require_divisor(chunks, length):
    """UsageError when `chunks` does not divide the length of descriptors."""
    if length % chunks:
        raise UsageError(
            f"--num_loss_chunks={chunks} does not divide the {length} dimensions of the descriptor;"
            " takes a divisor of it"
        )


def _in_chunks(descriptors, chunks):
    """[N, D] -> chunks of [N, D / chunks]; UsageError when `chunks` does not divide D."""
    require_divisor(chunks, descriptors.shape[1])
    return descriptors.unflatten(1, (chunks, -1)).unbind(1)


def split_product(query, train, *, chunks):
    """splitloss: the largest product of chunk p of the one and chunk p of the other, of descriptors
    normalised as a whole.

    [Q, D], [T, D] -> [Q, T]; holds two such matrices, not `chunks`.
    """
    best = None
    for q, t in zip(_in_chunks(query, chunks), _in_chunks(train, chunks), strict=True):
        scores = q @ t.T
        best = scores if best is None else best.maximum(scores)
    return best


def cross_product(query, train, *, chunks):
    """splitlosscross: the largest product of any chunk of the one and any of the other.

    [Q, D], [T, D] -> [Q, T]; holds two such matrices, not `chunks`.
    """
    best = None
    for q, t in itertools.product(_in_chunks(query, chunks), _in_chunks(train, chunks)):
        scores = q @ t.T
        best = scores if best is None else best.maximum(scores)
    return best


# --similarity_metric -> (number of chunks) -> scores of a block
SIMILARITIES = {
    "dotproduct": lambda chunks: dot_product,
    "splitloss": lambda chunks: functools.partial(split_product, chunks=chunks),
    "splitlosscross": lambda chunks: functools.partial(cross_product, chunks=chunks),
}

# Best matches -------------------------------------------------------------------------------------


def _order_keys(scores, indices):
    """int64 keys that sort as (score ascending, index descending), so that topk breaks ties by
    index.

    A float's bits sort as the float does once negative ones are flipped; the index fills the lower
    half."""
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


def top_matches(
    query, train, *, k, scores=dot_product, block_rows=BLOCK_ROWS, exclude_self=False, device=None
):
    """The k best matches of every query, ordered by (score descending, index ascending).

    query: [Q, D], train: [M, D], float32, normalised; scores: of a block, [q, D], [m, D] -> [q, m];
    exclude_self: query i is not matched with training image i; device: that computes, else the
    descriptors' own. Holds block_rows x (k + block_rows) scores, never Q x M. Returns: scores [Q,
    k'] float32, indices [Q, k'] int64 on the CPU, with k' = min(k, candidates)."""
    import torch

    count = min(k, len(train) - exclude_self)
    parts = []
    for first in range(0, len(query), block_rows):
        block = query[first : first + block_rows].to(device or query.device)
        rows = torch.arange(first, first + len(block), device=block.device)
        best = torch.empty(len(block), 0, dtype=torch.int64, device=block.device)
        for start in range(0, len(train), block_rows):
            chunk = train[start : start + block_rows].to(block.device)
            indices = torch.arange(start, start + len(chunk), device=block.device)
            keys = _order_keys(scores(block, chunk), indices)
            if exclude_self:
                keys = keys.masked_fill(
                    rows[:, None] == indices[None], torch.iinfo(torch.int64).min
                )
            merged = torch.cat([best, keys], 1)
            best = merged.topk(min(k, merged.shape[1]), dim=1).values
        parts.append(best[:, :count].cpu())
    return _scores_and_indices(torch.cat(parts))


def write_matrix(path, query, train, *, scores=dot_product, block_rows=BLOCK_ROWS):
    """The whole matrix of scores as .npy, [Q, M] float16, block by block, whole or absent."""
    from utils.files.whole_files import whole_file

    with whole_file(path) as part:
        # the part's name does not end in .npy, which open_memmap does not mind
        matrix = np.lib.format.open_memmap(
            part, mode="w+", dtype=np.float16, shape=(len(query), len(train))
        )
        for first in range(0, len(query), block_rows):
            for start in range(0, len(train), block_rows):
                block = scores(query[first : first + block_rows], train[start : start + block_rows])
                matrix[first : first + block_rows, start : start + block_rows] = (
                    block.half().numpy()
                )
        matrix.flush()


def paired(query, train, *, scores=dot_product, block_rows=256):
    """Score of query i with training image i. query, train: [N, D]. Returns: [N] float32."""
    import torch

    spans = range(0, len(query), block_rows)
    parts = [scores(query[s : s + block_rows], train[s : s + block_rows]).diagonal() for s in spans]
    return torch.cat(parts) if parts else query.new_empty(0)


def summary(scores, prefix):
    """mean, std (ddof 0) and linear percentiles 75, 90, 95 of best scores. scores: [Q]. Returns:
    flat dict."""
    scores = np.asarray(scores, np.float64)
    row = {f"{prefix}_mean": scores.mean(), f"{prefix}_std": scores.std()}
    row |= {f"{prefix}_{p}pc": np.percentile(scores, p) for p in (75, 90, 95)}
    return {k: float(v) for k, v in row.items()}
