"""Similarity of descriptors: best matches, computed in blocks and in a fixed order, and the
statistics that the field reports."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from utils.runtime.errors import UsageError

if TYPE_CHECKING:
    import torch

# torch is imported where it is used: the options read SIMILARITIES, and --help must answer at once
BLOCK_ROWS = 4096

# scores of a block: (query [Q, D], train [T, D]) -> [Q, T]
Scores = Callable[["torch.Tensor", "torch.Tensor"], "torch.Tensor"]


def normalised(descriptors: torch.Tensor) -> torch.Tensor:
    """Rows divided by their L2 norm, float32; a zero row stays zero. [N, D] -> [N, D]."""
    return descriptors.float() / descriptors.float().norm(dim=1, keepdim=True).clamp_min(1e-12)


# Scores of a block --------------------------------------------------------------------------------


def dot_product(query: torch.Tensor, train: torch.Tensor) -> torch.Tensor:
    """Cosine similarity of normalised descriptors. [Q, D], [T, D] -> [Q, T]."""
    return query @ train.T


def require_divisor(chunks: int, length: int) -> None:
    """Raise UsageError if `chunks` does not divide the length of descriptors."""
    if length % chunks:
        raise UsageError(
            f"--num_loss_chunks={chunks} does not divide the {length} dimensions of the descriptor;"
            " give a divisor of that number"
        )


def _in_chunks(descriptors: torch.Tensor, chunks: int) -> tuple[torch.Tensor, ...]:
    """[N, D] -> chunks of [N, D / chunks]; UsageError if `chunks` does not divide D."""
    require_divisor(chunks, descriptors.shape[1])
    return descriptors.unflatten(1, (chunks, -1)).unbind(1)


def split_product(query: torch.Tensor, train: torch.Tensor, *, chunks: int) -> torch.Tensor:
    """splitloss: the largest product of two chunks of the same number, of descriptors that are
    normalised as a whole (Somepalli et al. 2023, the published retrieval script).

    [Q, D], [T, D] -> [Q, T]; holds two such matrices, not `chunks`.
    """
    best = None
    for q, t in zip(_in_chunks(query, chunks), _in_chunks(train, chunks), strict=True):
        scores = q @ t.T
        best = scores if best is None else best.maximum(scores)
    return best


def cross_product(query: torch.Tensor, train: torch.Tensor, *, chunks: int) -> torch.Tensor:
    """splitlosscross: the largest product of any two chunks.

    [Q, D], [T, D] -> [Q, T]; holds two such matrices, not `chunks`.
    """
    best = None
    for q, t in itertools.product(_in_chunks(query, chunks), _in_chunks(train, chunks)):
        scores = q @ t.T
        best = scores if best is None else best.maximum(scores)
    return best


# --similarity_metric -> (number of chunks) -> scores of a block
SIMILARITIES: dict[str, Callable[[int], Scores]] = {
    "dotproduct": lambda chunks: dot_product,
    "splitloss": lambda chunks: functools.partial(split_product, chunks=chunks),
    "splitlosscross": lambda chunks: functools.partial(cross_product, chunks=chunks),
}

# Best matches -------------------------------------------------------------------------------------


INDEX_BITS = 32
LAST_INDEX = 2**32 - 1  # the largest that the lower half of a key holds
FLIP = -(2**31) - 1  # FLIP - bits reverses the order of the negative int32


def _order_keys(scores: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
    """int64 keys that sort as (score ascending, index descending), so that topk breaks ties by the
    lower index.

    The bits of a float sort as the float does once those of negative floats are flipped; the index
    fills the lower half."""
    import torch

    bits = (scores + 0.0).view(torch.int32).long()  # + 0.0 makes -0.0 equal 0.0
    sortable = torch.where(bits < 0, FLIP - bits, bits)
    return sortable * 2**INDEX_BITS + (LAST_INDEX - indices)


def _scores_and_indices(keys: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The inverse of `_order_keys`."""
    import torch

    indices = LAST_INDEX - (keys & LAST_INDEX)
    sortable = keys >> INDEX_BITS
    bits = torch.where(sortable < 0, FLIP - sortable, sortable).to(torch.int32)
    return bits.view(torch.float32), indices


def top_matches(
    query: torch.Tensor,
    train: torch.Tensor,
    *,
    k: int,
    scores: Scores = dot_product,
    block_rows: int = BLOCK_ROWS,
    exclude_self: bool = False,
    device: torch.device | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The k best matches of every query, ordered by (score descending, index ascending). Holds
    block_rows x (k + block_rows) scores, never Q x M.

    query: [Q, D] float32, normalised
    train: [M, D] float32, normalised
    scores: how a block is scored
    exclude_self: query i is not matched with training image i
    device: that computes; None: the descriptors' own

    Returns: scores [Q, k'] float32, indices [Q, k'] int64 on the CPU, k' = min(k, candidates)."""
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


def write_matrix(
    path: str | Path,
    query: torch.Tensor,
    train: torch.Tensor,
    *,
    scores: Scores = dot_product,
    block_rows: int = BLOCK_ROWS,
) -> None:
    """Write all scores as .npy, [Q, M] float16, block by block; the file is whole or absent."""
    from utils.files.whole_files import whole_file

    with whole_file(path) as part:
        # open_memmap accepts a name that does not end in .npy, as that of the part
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


def paired(
    query: torch.Tensor,
    train: torch.Tensor,
    *,
    scores: Scores = dot_product,
    block_rows: int = 256,
) -> torch.Tensor:
    """Score of query i with training image i. query, train: [N, D]. Returns: [N] float32."""
    import torch

    spans = range(0, len(query), block_rows)
    parts = [scores(query[s : s + block_rows], train[s : s + block_rows]).diagonal() for s in spans]
    return torch.cat(parts) if parts else query.new_empty(0)


def summary(scores: np.ndarray, prefix: str) -> dict[str, float]:
    """Mean, standard deviation (ddof 0) and linear percentiles 75, 90, 95 of scores [Q]. Returns:
    {prefix_statistic: value}."""
    scores = np.asarray(scores, np.float64)
    row = {f"{prefix}_mean": float(scores.mean()), f"{prefix}_std": float(scores.std())}
    return row | {f"{prefix}_{p}pc": float(np.percentile(scores, p)) for p in (75, 90, 95)}
