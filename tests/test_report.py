"""The measured parts of the documents match the committed result files."""

from __future__ import annotations

from pathlib import Path

import pytest

from dcam_fast.benchmarks import report

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("document", report.DOCUMENTS)
def test_document_is_up_to_date(document: str) -> None:
    text = (ROOT / document).read_text()
    assert "<!-- " in text
    assert report.render(text) == text, f"{document} is stale: ./run python -m dcam_fast.benchmarks.report"
