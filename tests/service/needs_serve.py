"""Skips the test module that imports it where the service's packages are not installed."""

from __future__ import annotations

import pytest

for package in ("fastapi", "uvicorn", "prometheus_client", "python_multipart", "httpx"):
    pytest.importorskip(package, reason="the extra 'serve' or httpx is not installed")
