"""Times some cases on a GPU: `python -m dcam_fast.benchmarks.gpu_group ONLY SECONDS OUT`.

The results are written after every case: a kernel that breaks the process, or the end of its time, loses one case.
"""

from __future__ import annotations

import sys
from pathlib import Path

from dcam_fast.benchmarks.results import Results
from dcam_fast.benchmarks.suite import BenchmarkPlan, run
from dcam_fast.folders import write_text


def main(only: str, seconds: str, out: str, device: str = "cuda") -> None:
    """See the module's docstring."""
    plan = BenchmarkPlan(device, only=only, total_s=float(seconds), max_samples=1000, min_samples=200)

    def save(results: Results) -> None:
        write_text(Path(out), results.to_json())

    save(run(plan, lambda name: print(f"gpu: {name}", flush=True), save))


if __name__ == "__main__":
    main(*sys.argv[1:])
