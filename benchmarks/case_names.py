"""Cases from their names, for shapes that the suite does not have."""

from __future__ import annotations

import itertools
import re
from typing import NoReturn

from dcam_fast.benchmarks.op_cases import DTYPES, OPS, BenchmarkCase
from dcam_fast.config import PROFILES
from dcam_fast.ops import AGGREGATIONS

# The variants of each op; the first is the default.
VARIANTS: dict[str, tuple[str, ...]] = {
    "pool": ("elementwise", *(name for name in AGGREGATIONS if name != "elementwise")),
    "refine": tuple(PROFILES),
    "guided_filter": ("default",),
    "overlay": ("turbo",),
    "diffusion_cam": tuple(map(", ".join, itertools.product(("pooled", *AGGREGATIONS), PROFILES))),
}
CHANNELS = 4096
IMAGE = (480, 640)  # H, W


def parse_case(text: str, op: str | None = None) -> BenchmarkCase:
    """The case of a name. What the name leaves out has a default: T=1, D=4096, float32, 640x480 px.

    >>> parse_case("refine 40x50 T=8").name
    'refine released 40x50 float32 T=8'
    >>> parse_case("27x27 D=64 bfloat16", op="pool").name
    'pool elementwise 27x27 D=64 bfloat16 T=1'

    Args:
        text: the name of a case, as in the tables; only the grid is needed, and the op if `op` is None.
        op: the op of a name without one.

    Raises:
        ValueError: it does not name a case.
    """

    def reject(problem: str) -> NoReturn:
        raise ValueError(f"bench: case must be like 'refine released 27x27 float32 T=8', got {text!r}: {problem}")

    image = re.search(r"(\d+)x(\d+) px", text)
    words = (text if image is None else text.replace(image[0], " ")).split()
    op = words.pop(0) if words and words[0] in OPS else op
    if op is None:
        reject(f"the op is missing, one of {', '.join(OPS)}")
    grids = [word for word in words if re.fullmatch(r"\d+x\d+", word)]
    numbers = [word for word in words if re.fullmatch(r"[TD]=\d+", word)]
    dtypes = [word for word in words if word in DTYPES]
    variant = " ".join(word for word in words if word not in {*grids, *numbers, *dtypes}) or VARIANTS[op][0]
    if variant not in VARIANTS[op]:
        reject(f"{variant!r} is no variant of {op}, one of {'; '.join(VARIANTS[op])}")
    if len(grids) != 1:
        reject(f"one grid is needed, such as 27x27, got {' and '.join(grids) or 'none'}")
    pooled = op in ("pool", "diffusion_cam")
    if not pooled and (any(word[0] == "D" for word in numbers) or dtypes not in ([], ["float32"])):
        reject(f"{op} has float32 maps, without channels")
    if image is not None and op != "overlay":
        reject(f"{op} has no image")
    sizes = {"T": 1, "D": CHANNELS, **{word[0]: int(word[2:]) for word in numbers}}
    height, width = map(int, grids[0].split("x"))
    pixels = IMAGE if image is None else (int(image[2]), int(image[1]))
    if min(*sizes.values(), *pixels) < 1 or height * width < 2:
        reject("sizes must be positive, and a grid needs two cells")
    return BenchmarkCase(
        "post-processing" if op == "diffusion_cam" else "op",
        op,
        variant,
        sizes["T"],
        (height, width),
        sizes["D"] if pooled else 0,
        dtypes[0] if dtypes else "float32",
        pixels if op == "overlay" else None,
    )
