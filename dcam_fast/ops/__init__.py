"""The public ops. Each runs on every available backend, which `dcam_fast.env()` lists. Results have no gradients.

The device of the tensors selects the backend. The argument `backend` overrides it for a call, the environment variable
DCAM_BACKEND for the process. Default arguments are the settings of the method `default` of `dcam_fast.METHODS`.
"""

from dcam_fast.ops.diffusion_cam import diffusion_cam, diffusion_cam_out, diffusion_cam_workspace
from dcam_fast.ops.guided_filter import guided_filter
from dcam_fast.ops.overlay import overlay, upsample
from dcam_fast.ops.pool import AGGREGATIONS, pool, pool_out
from dcam_fast.ops.rank_filter import rank_filter, rank_filter_array
from dcam_fast.ops.refine import refine, refine_array, repetition_ratio
from dcam_fast.ops.threads import get_num_threads, set_num_threads

__all__ = [
    "AGGREGATIONS",
    "diffusion_cam",
    "diffusion_cam_out",
    "diffusion_cam_workspace",
    "get_num_threads",
    "guided_filter",
    "overlay",
    "pool",
    "pool_out",
    "rank_filter",
    "rank_filter_array",
    "refine",
    "refine_array",
    "repetition_ratio",
    "set_num_threads",
    "upsample",
]
