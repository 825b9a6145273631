"""Links between the documents that sphinx does not read point at files that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LINK = re.compile(r"\]\((?!https?:|#)([^)#\s]+)")


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md"])
def test_linked_files_exist(name: str) -> None:
    targets = LINK.findall((ROOT / name).read_text("utf-8"))
    assert not [target for target in targets if not (ROOT / target).exists()]
