"""benchmarks/gpu.py without a GPU: time limits and the output of the tools."""

from __future__ import annotations

import sys

import pytest
import torch

from dcam_fast.benchmarks import gpu


def test_stage_is_cut():
    done = gpu.stage("nap", [sys.executable, "-c", "import time; time.sleep(60)"], 0.2)
    assert done.code is None
    assert "cut after" in done.note
    assert "no time left" in gpu.stage("nap", ["false"], 0).note


def test_stage_reports_exit_code_and_last_line():
    done = gpu.stage("three", [sys.executable, "-c", "print('why'); raise SystemExit(3)"], 30)
    assert (done.code, done.note) == (3, "three: exit code 3, why")


def test_sanitizer():
    assert gpu.sanitizer_errors("x\n========= ERROR SUMMARY: 4 errors\n") == 4
    assert gpu.sanitizer_errors("========= RACECHECK SUMMARY: 0 hazards displayed (0 errors, 0 warnings)") == 0
    assert gpu.sanitizer_errors("Target application returned an error") is None


def test_ncu():
    text = (
        '==PROF== Connected\n"ID","Kernel Name","Metric Name","Metric Unit","Metric Value"\n'
        '"0","pool","dram","%","81.5"\n"0","pool","warps","%","40"\n"1","refine","dram","%","2"\n'
    )
    assert gpu.ncu_summary(text) == ["ncu pool: dram 81.5 %, warps 40 %", "ncu refine: dram 2 %"]
    assert gpu.ncu_summary("no permission") == []


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU: the script would run")
def test_no_gpu_has_its_own_exit_code(capsys):
    assert gpu.main() == gpu.NO_GPU
    assert "no GPU" in capsys.readouterr().out
