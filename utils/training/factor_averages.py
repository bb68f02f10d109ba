"""How far the average of LoRA's factors is from the average of their products.

An ensemble averages weights. Of an adapter these are the factors A and B, and the mean of B A over
the copies is not the product of the means: the difference is the weighted covariance of the
factors (Sun et al. 2024, FFA-LoRA, section 3; Singhal et al. 2024, FedEx-LoRA)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

Factors = Mapping[str, tuple[torch.Tensor, torch.Tensor]]  # {layer: (A [r, in], B [out, r])}


def _squared_norm(downs: Sequence[torch.Tensor], ups: Sequence[torch.Tensor]) -> float:
    """||sum_k B_k A_k||^2 (Frobenius) from products of r columns and rows, without the sum itself:
    the trace of (B^T B)(A A^T) of the stacked factors. downs: [r, in] each; ups: [out, r]."""
    down, up = torch.cat([*downs], 0), torch.cat([*ups], 1)
    return float(((up.T @ up) * (down @ down.T)).sum())


def relative_error(copies: Sequence[Factors], shares: Sequence[float], start: Factors) -> float:
    """|| mean(B A) - mean(B) mean(A) || / || mean(B A) - B_0 A_0 || over all layers: the error of
    averaging factors, relative to what the round changed. 0.0 where nothing changed.

    copies: the factors of each copy at the end of a round; shares: their weights in the mean, which
    add up to 1; start: the factors from which all copies began."""
    error = change = 0.0
    for layer, (down0, up0) in start.items():
        downs = [copy[layer][0].double() for copy in copies]
        ups = [copy[layer][1].double() for copy in copies]
        mean_down = sum(share * down for share, down in zip(shares, downs, strict=True))
        mean_up = sum(share * up for share, up in zip(shares, ups, strict=True))
        # sum p_k (B_k - mean B)(A_k - mean A)
        error += _squared_norm(
            [down - mean_down for down in downs],
            [share * (up - mean_up) for share, up in zip(shares, ups, strict=True)],
        )
        change += _squared_norm(
            [*downs, down0.double()],
            [*(share * up for share, up in zip(shares, ups, strict=True)), -up0.double()],
        )
    return (max(error, 0.0) / change) ** 0.5 if change > 0 else 0.0
