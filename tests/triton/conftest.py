"""Which of these tests can run in this process."""

from __future__ import annotations

from dcam_fast.ops import _backends

# It launches kernels: on a GPU, or in the process that test_interpreter.py starts.
collect_ignore = [] if _backends.BACKENDS["triton"].unavailable_reason() is None else ["test_kernels.py"]
