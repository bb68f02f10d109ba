"""Names and ranges of the flags of flow matching. --help lists them, so this module imports nothing
but Python's own."""

import math

# how sigma is drawn, or how its losses are weighed
WEIGHTING_SCHEMES = ("none", "sigma_sqrt", "logit_normal", "mode", "cosmap")
# {scheme: the flags of its density}
DENSITIES = {"logit_normal": ("logit_mean", "logit_std"), "mode": ("mode_scale",)}
# outside of these, the quantile function of "mode" is not monotone (Esser et al. 2024, eq. 20)
MODE_SCALES = (-1.0, 2 / (math.pi - 2))
