"""The Triton kernel of docs/benchmarking-your-kernel.md is right, in Triton's interpreter, in a separate process."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "benchmarking-your-kernel.md"
CHECK = """
import sys

sys.path.append(sys.argv[1])
from dcam_fast.benchmarks.case_names import parse_case
from dcam_fast.benchmarks.custom import load_implementation
from dcam_fast.benchmarks.suite import check_correctness

kernel = load_implementation("my_triton:pool")
for text in ("3x5 D=1030 T=2", "3x5 D=8 bfloat16", "pool pooled 3x5 D=8"):
    case = parse_case(text, "pool")
    calls, rejected = check_correctness(case, "cpu", kernel.implementations(case, "cpu"))
    print(case.variant, list(calls), [rejection.reason for rejection in rejected.values()])
"""


def test_the_kernel_of_the_page(tmp_path: Path) -> None:
    pytest.importorskip("triton", reason="triton is not installed")
    code = re.search(r"<!-- file: my_triton\.py -->\n```python\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    assert code is not None
    (tmp_path / "my_triton.py").write_text(code[1])
    done = subprocess.run(
        [sys.executable, "-c", CHECK, str(tmp_path)],
        cwd=ROOT,
        env=os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    right = "elementwise ['my_triton:pool'] []"
    assert done.stdout.splitlines() == [right, right, "pooled [] ['elementwise only']"]
