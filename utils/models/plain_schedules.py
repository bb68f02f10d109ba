"""The timesteps of the usual schedulers with plain settings, as diffusers computes them.

Importing diffusers for one scheduler takes longer than all the rest of a plan (--dry_run). What is
not listed here, a scheduler or a setting, is left to diffusers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

# scheduler -> (spacing of timesteps where the configuration names none, steps that it spreads
# over the training timesteps beside those that are asked for)
PLAIN = {
    "DDIM": ("leading", 0),
    "PNDM": ("leading", 0),
    "EulerDiscrete": ("linspace", 0),
    "DPMSolverMultistep": ("linspace", 1),
}
SPACINGS = ("leading", "linspace", "trailing")
# settings on which timesteps may depend, or which a scheduler may refuse -> plain values; a
# configuration may lack them
VALUES: dict[str, tuple] = {
    "timestep_spacing": SPACINGS,
    "beta_schedule": ("linear", "scaled_linear"),
    "trained_betas": (None,),
    "prediction_type": ("epsilon", "v_prediction"),
    "interpolation_type": ("linear",),
    "timestep_type": ("discrete",),
    "final_sigmas_type": ("zero",),
    "algorithm_type": ("dpmsolver++",),
    "solver_type": ("midpoint",),
    "lambda_min_clipped": (-float("inf"),),
}
# settings that change timesteps where they are on
OFF = (
    "use_karras_sigmas",
    "use_exponential_sigmas",
    "use_beta_sigmas",
    "use_lu_lambdas",
    "use_flow_sigmas",
    "use_dynamic_shifting",
    "rescale_betas_zero_snr",
)
# settings without any influence on timesteps
FREE = frozenset(
    {
        *("_class_name", "_diffusers_version", "num_train_timesteps", "steps_offset"),
        *("beta_start", "beta_end", "set_alpha_to_one", "skip_prk_steps"),
        *("clip_sample", "clip_sample_range", "sample_max_value", "sigma_min", "sigma_max"),
        *("thresholding", "dynamic_thresholding_ratio", "variance_type", "time_shift_type"),
        *("solver_order", "lower_order_final", "euler_at_final", "flow_shift"),
    }
)


def is_plain(name: str, config: Mapping[str, Any]) -> bool:
    """Whether the timesteps of a scheduler are known here. name: without the word Scheduler;
    config: as its configuration file holds it."""
    if name not in PLAIN or not config.keys() <= FREE | VALUES.keys() | set(OFF):
        return False
    values = all(config[key] in plain for key, plain in VALUES.items() if key in config)
    counts = (config.get("num_train_timesteps", 1000), config.get("steps_offset", 0))
    return (
        values and not any(config.get(key) for key in OFF) and all(type(n) is int for n in counts)
    )


def timesteps(name: str, config: Mapping[str, Any], steps: int) -> np.ndarray:
    """The distinct timesteps of `steps` steps of a scheduler for which `is_plain` holds,
    descending. Spacings as in table 2 of Lin et al. (2023). Returns: float64 [about steps]."""
    spacing, more = PLAIN[name]
    spacing = config.get("timestep_spacing", spacing)
    most, offset = config.get("num_train_timesteps", 1000), config.get("steps_offset", 0)
    if spacing == "trailing":
        return np.round(np.arange(most, 0, -most / steps)) - 1
    if spacing == "linspace":
        times = np.linspace(0, most - 1, steps + more)
        times = times if name == "EulerDiscrete" else times.round()
    else:
        times = np.arange(steps + more) * float(most // (steps + more)) + offset
    return times[::-1][:steps]
