"""What the README says was measured is what the committed result files say."""

from __future__ import annotations

import importlib.util
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_readme_is_up_to_date() -> None:
    spec = importlib.util.spec_from_file_location("report", ROOT / "benchmarks" / "report.py")
    assert spec is not None
    assert spec.loader is not None
    report = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(report)
    for document in ("README.md", "docs/evaluation.md"):
        text = (ROOT / document).read_text()
        assert "<!-- " in text
        assert report.render(text) == text, f"{document} is stale: ./run python benchmarks/report.py"
