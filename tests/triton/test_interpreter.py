"""The kernels run by Triton's interpreter, against the reference, on every machine.

In a separate process: TRITON_INTERPRET has to be set before anything imports Triton. `TRITON_INTERPRET=1 pytest
tests/ops -k triton` runs all op tests in this way (four minutes); here are those that show most for their time.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
OP_TESTS = {
    "test_golden.py": ("test_refine", "test_rank_filter", "test_pooled"),
    "test_pool.py": ("test_blocks", "test_blocks_not_finite", "test_strided", "test_overflow", "test_empty"),
    "test_refine.py": ("test_gating_percentiles", "test_ragged", "test_out"),
    "test_overlay.py": ("test_values", "test_unseen_pixels_keep_the_image"),
    "test_registration.py": [f"test_opcheck[triton-{op}]" for op in ("pool_out", "overlay", "guided_filter")],
}


def test_interpreted():
    chosen = [f"tests/ops/{file}::{name}" for file, names in OP_TESTS.items() for name in names]
    options = ["-q", "-x", "-p", "no:cacheprovider", "-W", "ignore", "-k", "triton"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, "tests/triton/test_kernels.py", *chosen],
        cwd=ROOT,
        env=os.environ | {"TRITON_INTERPRET": "1", "PYTHONSAFEPATH": "1", "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
