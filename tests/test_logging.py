"""What is logged: sizes and seconds, never prompts, answers or images."""

from __future__ import annotations

import logging
import subprocess
import sys

import numpy as np
import pytest

from dcam_fast import Explainer
from dcam_fast.models.generation import Generation

IMAGE = np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8)


@pytest.fixture
def own_logging(monkeypatch: pytest.MonkeyPatch) -> None:
    """Logging as after the import: libraries of other tests may have disabled loggers that existed before."""
    monkeypatch.setattr(logging.root.manager, "disable", 0)
    for name, logger in logging.root.manager.loggerDict.items():
        if name.split(".")[0] == "dcam_fast" and isinstance(logger, logging.Logger):
            monkeypatch.setattr(logger, "disabled", False)
            monkeypatch.setattr(logger, "propagate", True)


@pytest.mark.usefixtures("own_logging")
def test_an_explanation_is_logged_without_its_content(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "dcam_fast")
    explainer = Explainer.from_pretrained("tiny")
    explanation = explainer.explain(IMAGE, "describe the image", "all", generation=Generation(steps=4))
    stream = explainer.stream(IMAGE, "describe the image", generation=Generation(steps=4))
    assert len(list(stream)) == 4
    stream.explanation()
    levels = [record.levelname for record in caplog.records if record.name.startswith("dcam_fast.")]
    assert levels == ["INFO", "INFO", *["DEBUG"] * 4, "INFO"]
    loaded, explained = caplog.records[0].getMessage(), caplog.records[1].getMessage()
    assert loaded.startswith("loaded ")
    assert "dcam_tiny" in loaded
    assert f"{len(explanation.tokens)} tokens, {len(explanation.targets)} maps of 11x16" in explained
    for record in caplog.records:
        message = record.getMessage()
        assert "describe the image" not in message
        assert explanation.answer not in message


def test_quiet_by_default() -> None:
    code = (
        "import numpy; from dcam_fast import Explainer, Generation;"
        "Explainer.from_pretrained().explain(numpy.zeros((64, 64, 3), numpy.uint8), generation=Generation(steps=2))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (run.stdout, run.stderr) == ("", "")
