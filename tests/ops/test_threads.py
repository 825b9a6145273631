"""The threads of the CPU ops: results are identical for any number of threads and callers, also in a forked child."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch import Tensor

import dcam_fast
from dcam_fast import ops
from dcam_fast.images import grid_boxes
from dcam_fast.ops import _backends, threads

ROOT = Path(__file__).parents[2]
needs_native = pytest.mark.skipif(_backends.native is None, reason="the extension is not built")


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    before = dcam_fast.get_num_threads()
    yield
    dcam_fast.set_num_threads(before)


def everything() -> list[Tensor]:
    """Work of every op that is large enough to be divided."""
    random = torch.Generator().manual_seed(7)
    A = torch.randn(729, 1024, generator=random).bfloat16()
    G = torch.randn(4, 729, 1024, generator=random).bfloat16()
    maps, guide = torch.rand(64, 27, 27, generator=random), torch.rand(3, 27, 27, generator=random)
    image = torch.randint(0, 256, (300, 400, 3), generator=random, dtype=torch.uint8)
    boxes = grid_boxes((27, 27), (300, 400))
    return [
        *(ops.pool(A, G, aggregation=name) for name in ops.AGGREGATIONS),
        ops.refine(maps, dcam_fast.RELEASED),
        ops.rank_filter(maps, 5),
        ops.guided_filter(maps, guide),
        ops.diffusion_cam(A, G, grid=(27, 27), config=dcam_fast.RELEASED),
        ops.upsample(maps[:8], boxes, (300, 400)),
        ops.overlay(maps[:8], image, boxes),
    ]


def assert_same(one: list[Tensor], other: list[Tensor]) -> None:
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_any_count_gives_identical_results():
    dcam_fast.set_num_threads(1)
    expected = everything()
    for count in (2, 3, 8):
        dcam_fast.set_num_threads(count)
        for _ in range(3):
            assert_same(everything(), expected)


def test_several_callers():
    dcam_fast.set_num_threads(1)
    expected = everything()
    dcam_fast.set_num_threads(3)
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(lambda _: everything(), range(12)):
            assert_same(found, expected)


@needs_native
@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system does not fork")
def test_forked_child():
    """A child has none of its parent's threads: it starts new ones. In a separate process, where torch's
    threads, which do not survive a fork, were never started."""
    code = """
        import os, sys, torch
        torch.set_num_threads(1)
        import dcam_fast
        from dcam_fast import ops
        dcam_fast.set_num_threads(2)
        maps = torch.rand(256, 27, 27, generator=torch.Generator().manual_seed(7))
        expected = ops.refine(maps, dcam_fast.RELEASED)
        child = os.fork()
        if child == 0:
            same = all(torch.equal(ops.refine(maps, dcam_fast.RELEASED), expected) for _ in range(5))
            os._exit(0 if same else 1)
        sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    """
    done = run(code)
    assert done.returncode == 0, done.stderr


@needs_native
def run(code: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env=os.environ | {"PYTHONSAFEPATH": "1"} | variables,
    )


PRINT = "import dcam_fast; print(dcam_fast.get_num_threads(), dcam_fast.env().op_threads)"


def test_environment_variable():
    assert run(PRINT, DCAM_NUM_THREADS="5").stdout == "5 5\n"
    unset = run(PRINT, DCAM_NUM_THREADS="", OMP_NUM_THREADS="1")
    assert unset.stdout == "1 1\n"


@pytest.mark.parametrize("text", ["0", "-1", "two", "1.5", " 2", "1025", "10000000000", "²"])
def test_bad_environment_variable(text):
    done = run(PRINT, DCAM_NUM_THREADS=text)
    assert done.returncode == 1
    expected = f"ValueError: dcam_fast: DCAM_NUM_THREADS must be an integer from 1 to 1024, got {text!r}"
    assert done.stderr.splitlines()[-1] == expected


@pytest.mark.parametrize(
    ("count", "kind"), [(0, ValueError), (-3, ValueError), (1025, ValueError), ("2", TypeError), (2.0, TypeError),
                        (True, TypeError), (None, TypeError)],
)  # fmt: skip
def test_bad_count(count, kind):
    before = dcam_fast.get_num_threads()
    with pytest.raises(kind) as error:
        dcam_fast.set_num_threads(count)
    assert str(error.value) == f"set_num_threads: count must be an int from 1 to 1024, got {count!r}"
    assert dcam_fast.get_num_threads() == before


def test_count_is_handed_to_the_kernels():
    dcam_fast.set_num_threads(3)
    assert dcam_fast.get_num_threads() == dcam_fast.env().op_threads == 3
    assert _backends.native is None or _backends.native.num_threads() == 3
    assert dcam_fast.env().threads == torch.get_num_threads()


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"cpu.max": "max 100000\n"}, threads.LIMIT),
        ({"cpu.max": "150000 100000\n"}, 2),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, threads.LIMIT),
        ({"cpu/cpu.cfs_quota_us": "50000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 1),
        ({}, threads.LIMIT),
    ],
)
def test_quota_of_a_container(files, expected, tmp_path):
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    assert threads._container_cpus(tmp_path) == expected


@pytest.mark.parametrize("sanitizer", [None, "thread"])
def test_pool_without_python(sanitizer, tmp_path):
    """Each part once, the limit, exceptions, forks, and (where the compiler and system have it) no data race."""
    compiler = shutil.which(os.environ.get("CXX", "g++"))
    if compiler is None:
        pytest.skip("no C++ compiler (g++, or CXX)")
    flags = ["-std=c++20", "-O1", "-pthread", f"-I{ROOT / 'csrc'}"]
    if sanitizer is not None:
        flags.append(f"-fsanitize={sanitizer}")
        probe, empty = tmp_path / "probe", tmp_path / "empty.cpp"
        empty.write_text("int main() {}\n")
        built = subprocess.run([compiler, *flags, str(empty), "-o", str(probe)], capture_output=True, check=False)
        if built.returncode != 0 or subprocess.run([probe], capture_output=True, check=False).returncode != 0:
            pytest.skip("the compiler or this system has no ThreadSanitizer")
    program = tmp_path / "threads"
    sources = [str(ROOT / "tests/ops/threads.cpp"), str(ROOT / "csrc/dcam/cpu/threads.cpp")]
    subprocess.run([compiler, *flags, *sources, "-o", str(program)], check=True)
    # ThreadSanitizer does not allow a forked child to start threads
    arguments = ["fork"] if sanitizer is None else []
    done = subprocess.run([program, *arguments], capture_output=True, text=True, check=False, timeout=600)
    assert (done.returncode, done.stderr) == (0, "")
