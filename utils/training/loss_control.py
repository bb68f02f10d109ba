"""Loss rules: which samples of a batch are trained on, decided from their losses.

One rule ships: anti-gradient control (Liu et al. 2024, section 3.3), which drops samples whose loss
is far below the usual loss of their timestep. A copy of the model holds a bank b[t] of losses, an
exponential moving average for every timestep. A sample that the model has memorised has a small
loss; training on it is skipped."""

from __future__ import annotations

from typing import Protocol

import torch


class LossRule(Protocol):
    """Decides for every sample of the global batch whether it is trained on. A copy of the model
    has a rule of its own. Nothing in a rule may wait for the device."""

    def keep(self, losses: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """Which samples are trained on. losses: [B] float32, before any weighting; timesteps: [B]
        int64. Returns: [B] bool."""
        ...

    def update(self, losses: torch.Tensor, timesteps: torch.Tensor) -> None:
        """Learn from every loss of the batch, after `keep`."""
        ...

    def nearness(self, losses: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """How near losses are to the threshold, before `update`: 1 at it, more where a sample is
        kept, inf where the rule knows no usual loss yet. Arguments as of `keep`. Returns: [B]."""
        ...

    def state(self) -> dict[str, torch.Tensor]:
        """The tensors that a resumed copy needs; they are written into when it resumes."""
        ...

    def reset(self) -> None:
        """Return to the state of a copy that has not trained yet."""
        ...


class AntiGradientControl:
    """keep i <=> ratio * l_i >= b[t_i]; then, for every i in batch order, b[t_i] <- d * b[t_i] + (1
    - d) * l_i.

    ratio: rho > 0 (--mem_ratio: 1.25 drops losses below 0.8 of the bank); decay: d in [0, 1)
    (--arr_ema_decay). The bank starts at zero as published, so a timestep is never skipped before
    its first visit. bias_correction divides b[t] by 1 - d**n after n visits, as Adam does. Nothing
    here waits for the device."""

    def __init__(
        self,
        *,
        ratio: float,
        decay: float,
        num_timesteps: int,
        bias_correction: bool = False,
        device: torch.device | str = "cpu",
    ):
        self.ratio, self.decay, self.bias_correction = ratio, decay, bias_correction
        self.bank = torch.zeros(num_timesteps, device=device)
        self.visits = torch.zeros(num_timesteps, device=device)

    def reset(self) -> None:
        """Empty the bank, as for a copy that has not trained yet."""
        self.bank.zero_()
        self.visits.zero_()

    def keep(self, losses: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """Which samples are trained on. losses: [B] float32, before any weighting; timesteps: [B]
        int64. Returns: [B] bool."""
        return self.ratio * losses >= self._usual(timesteps)

    def nearness(self, losses: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """ratio * l / b[t], see LossRule; inf at a timestep without a visit. Arguments as of
        `keep`. Returns: [B]."""
        usual = self._usual(timesteps)
        return torch.where(usual > 0, self.ratio * losses / usual, torch.inf)

    def _usual(self, timesteps: torch.Tensor) -> torch.Tensor:
        usual = self.bank[timesteps]
        if self.bias_correction:
            seen = self.visits[timesteps]
            usual = torch.where(seen > 0, usual / (1 - self.decay**seen).clamp_min(1e-12), usual)
        return usual

    def update(self, losses: torch.Tensor, timesteps: torch.Tensor) -> None:
        """Add every loss of a batch to the bank, as if one after the other.

        A timestep with losses l_1 ... l_n in this batch gets d**n * b + (1 - d) * sum_j d**(n - j)
        * l_j."""
        same = timesteps[:, None] == timesteps[None, :]
        later = same.triu(1).sum(1)  # how many of the same timestep follow
        share = (1 - self.decay) * self.decay ** later.float() * losses
        count = same.sum(1).float()
        updated = self.decay**count * self.bank[timesteps] + (same * share).sum(1)
        # samples of one timestep write the same value, so the order of writes does not matter
        self.bank.scatter_(0, timesteps, updated)
        self.visits.scatter_add_(0, timesteps, torch.ones_like(losses))

    def state(self) -> dict[str, torch.Tensor]:
        """The tensors that a resumed copy needs: "bank" and "visits", [num_timesteps] each."""
        return {"bank": self.bank, "visits": self.visits}
