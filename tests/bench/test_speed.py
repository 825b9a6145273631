"""The comparison of the attribution pass with the published method runs; no test depends on a timing."""

from __future__ import annotations

from dcam_fast.benchmarks.attribution import speed
from dcam_fast.benchmarks.report_attribution import attribution


def test_gradients_of_both_methods_agree() -> None:
    result = speed.tiny("cpu", repeats=1)
    assert max(result["agreement"].values()) <= 1e-5
    assert result["rows"]["published"]["above_inference_bytes"] > 0
    machine = {"device": "x", "threads": 1, "torch": "2", "load": 0.0}
    text = attribution("a.json", {"machine": machine, "results": [result]})
    assert "**embedded model, float32, 288 tokens, target layer 2 of 6, 8 words**" in text
    assert "| dcam_fast, prefix, remask |" in text
