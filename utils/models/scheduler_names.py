"""The names of the diffusers schedulers that pipelines accept, without the word Scheduler.

--help lists them, so this module imports nothing."""

# The schedulers whose noise comes from the image's own generator, and whose betas and prediction
# type fit these pipelines. Not listed: those that draw from a Brownian tree or a generator of their
# own (an image would depend on its batch), those for other networks (EDM, unCLIP, consistency
# models), and inverse schedulers.
DENOISING = (
    "DDIM",
    "DDPM",
    "DEISMultistep",
    "DPMSolverMultistep",
    "DPMSolverSinglestep",
    "EulerAncestralDiscrete",
    "EulerDiscrete",
    "HeunDiscrete",
    "KDPM2AncestralDiscrete",
    "KDPM2Discrete",
    "LCM",
    "LMSDiscrete",
    "PNDM",
    "SASolver",
    "TCD",
    "UniPCMultistep",
)
FLOW_MATCHING = ("FlowMatchEulerDiscrete",)
