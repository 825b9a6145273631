"""How an answer is generated: the options."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from dcam_fast import Generation


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"steps": "3"}, TypeError, "steps must be a positive whole number or None, got '3'"),
        ({"steps": 2.5}, TypeError, "steps must be a positive whole number or None, got 2.5"),
        ({"steps": np.ones(2, int)}, TypeError, "steps must be a positive whole number or None, got array"),
        ({"steps": -1}, ValueError, "steps must be a positive whole number or None, got -1"),
        ({"block_length": True}, TypeError, "block_length must be a positive whole number or None, got True"),
        ({"block_length": 0}, ValueError, "block_length must be a positive whole number or None, got 0"),
        ({"temperature": True}, TypeError, "temperature must be a number or None, got True"),
        ({"temperature": "hot"}, TypeError, "temperature must be a number or None, got 'hot'"),
        ({"temperature": -0.1}, ValueError, "temperature must be at least 0, got -0.1"),
        ({"temperature": float("nan")}, ValueError, "temperature must be at least 0, got nan"),
        ({"temperature": float("inf")}, ValueError, "temperature must be at least 0, got inf"),
        ({"seed": None}, TypeError, "seed must be a whole number, got None"),
        ({"seed": 1.0}, TypeError, "seed must be a whole number, got 1.0"),
        ({"seed": -1}, ValueError, r"seed must be from 0 to 2\*\*63 - 1, got -1"),
        ({"seed": 2**63}, ValueError, r"seed must be from 0 to 2\*\*63 - 1, got 9223372036854775808"),
    ],
)
def test_options(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"Generation: {message}"):
        Generation(**options)
