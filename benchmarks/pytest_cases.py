"""The main cases as fixtures of pytest, for pytest-benchmark. A test file asks for them:

    pytest_plugins = ["dcam_fast.benchmarks.pytest_cases"]

    def test_refine(benchmark, refine_case):
        benchmark(refine_case.checked(my_refine))

`op_case` has the cases of all ops; `pool_case`, `refine_case`, `guided_filter_case`, `overlay_case` and
`diffusion_cam_case` those of one. They run on the device that the fixture `op_case_device` returns, which a test file
may define again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from torch import Tensor

from dcam_fast.benchmarks.custom import CustomImplementation
from dcam_fast.benchmarks.implementations import Call, Implementation
from dcam_fast.benchmarks.op_cases import OPS, BenchmarkCase
from dcam_fast.benchmarks.suite import check_correctness, quick_plan


@dataclass(frozen=True)
class OpCase:
    """A case on a device.

    Attributes:
        case: what to compute.
        device: where.
    """

    case: BenchmarkCase
    device: str = "cpu"

    def checked(self, function: Callable[..., Tensor]) -> Call:
        """The call to time: a function, on inputs of the case. The test is skipped if it raises NotImplementedError.

        Args:
            function: called like a custom implementation of the case's op.

        Raises:
            AssertionError: it disagrees with the reference.
        """
        name = getattr(function, "__qualname__", repr(function))
        return self.checked_call(CustomImplementation(name, self.case.op, function).implementation())

    def checked_call(self, candidate: Implementation) -> Call:
        """As `checked`, of an implementation.

        Raises:
            AssertionError: it disagrees with the reference.
        """
        calls, rejected = check_correctness(self.case, self.device, [candidate])
        if candidate.name in calls:
            return calls[candidate.name]
        rejection = rejected[candidate.name]
        if rejection.wrong:
            raise AssertionError(f"{candidate.name} in {self.case.name!r}: {rejection.reason}")
        pytest.skip(rejection.reason)


@pytest.fixture(scope="session")
def op_case_device() -> str:
    """Where the cases run: `"cpu"`, unless defined again."""
    return "cpu"


def _cases(*ops: str) -> Any:
    @pytest.fixture(params=[case for case in quick_plan().cases() if case.op in ops], ids=lambda case: case.name)
    def fixture(request: pytest.FixtureRequest, op_case_device: str) -> OpCase:
        return OpCase(request.param, op_case_device)

    return fixture


op_case = _cases(*OPS)
pool_case = _cases("pool")
refine_case = _cases("refine")
guided_filter_case = _cases("guided_filter")
overlay_case = _cases("overlay")
diffusion_cam_case = _cases("diffusion_cam")
