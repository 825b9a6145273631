"""benchmarks/gpu.py without a GPU: stages, time limits and the output of the tools."""

from __future__ import annotations

import re
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from dcam_fast.benchmarks import gpu, gpu_calls, gpu_group
from dcam_fast.benchmarks.gpu import Step
from dcam_fast.benchmarks.op_cases import all_cases
from dcam_fast.benchmarks.results import Entry, Results, now
from dcam_fast.benchmarks.suite import EXPLANATION, BenchmarkPlan
from dcam_fast.benchmarks.timing import Limits
from dcam_fast.ops import _backends

ROOT = Path(__file__).parents[2]
START_S = 120.0  # of a machine with a GPU, and what is lost between two stages


def test_a_command_is_cut():
    """With what it started, whose output would else keep it waiting."""
    command = ["sh", "-c", "echo begun; sleep 600 & wait"]
    done = gpu.execute(Step("nap", command, 600), 0.5)
    assert (done.code, done.output) == (None, "begun\n")
    assert "cut after" in done.note
    assert "no time left" in gpu.execute(Step("nap", ["false"], 1), 0).note


def test_a_command_reports_exit_code_and_last_line():
    done = gpu.execute(Step("three", [sys.executable, "-c", "print('why'); raise SystemExit(3)"], 30), 30)
    assert (done.code, done.note) == (3, "three: exit code 3, why")


def test_stages_fit_a_quarter_of_an_hour():
    assert START_S + sum(gpu.STAGE_S.values()) <= 15 * 60
    assert set(gpu.STAGE_S) == set(gpu.GROUPS)


def test_groups_have_every_case_once_and_the_targets_first():
    groups = [BenchmarkPlan("cuda", only=only).cases() for stage in gpu.GROUPS.values() for only, _ in stage]
    names = [case.name for cases in groups for case in cases]
    assert sorted(names) == sorted(case.name for case in all_cases("cuda"))
    assert {(case.grid, case.targets, case.channels) for case in groups[0]} == {((48, 48), 64, 4096)}
    only = [only for stage in gpu.GROUPS.values() for only, _ in stage]
    assert [part for part in only if part in EXPLANATION] == ["explanation"]


@pytest.mark.parametrize("stage", gpu.STAGE_S)
def test_results_and_output_are_there_as_soon_as_a_command_ends(monkeypatch, tmp_path, stage):
    def steps(stage, folder):
        yield Step("build", [sys.executable, "-c", "print('built')"], 30)
        assert (tmp_path / f"{stage}-00-build.txt").read_text() == "built\n"
        yield Step("crash", [sys.executable, "-c", "raise SystemExit('misaligned address')"], 30)
        yield Step("ncu", [sys.executable, "-c", "raise SystemExit(1)"], 30, right=False)

    monkeypatch.setattr(gpu, "steps", steps)
    notes, right = gpu.run_steps(stage, tmp_path, time.monotonic() + 60)
    assert not right
    assert notes[-3:] == ["build: exit code 0, built", "crash: exit code 1, misaligned address", "ncu: exit code 1, "]
    assert gpu.merged(stage, tmp_path, notes) is None


ENTRY = Entry("op", "refine", "released", "a case", 1, 729, "dcam_fast cuda", "cuda", "cold", median=1e-5)


def test_results_of_groups_are_merged(monkeypatch, tmp_path):
    """Those of a group whose process died too."""
    whole = Results(now(), {"device": "a GPU"}, Limits(1e9, 1e9), [ENTRY], ["cut for time: another"])

    def run(plan, progress, save):
        save(replace(whole, notes=[]))
        if plan.only == "dies":
            raise SystemExit
        return whole

    monkeypatch.setattr(gpu_group, "run", run)
    gpu_group.main("lives", "1", str(gpu.group_file(tmp_path, "first", 1)))
    with pytest.raises(SystemExit):
        gpu_group.main("dies", "1", str(gpu.group_file(tmp_path, "first", 3)))
    found = gpu.merged("first", tmp_path, ["tests: exit code 0"])
    assert found == replace(whole, entries=[ENTRY, ENTRY], notes=["tests: exit code 0", *whole.notes])


def test_commands_of_the_stages(monkeypatch, tmp_path):
    monkeypatch.setattr(gpu, "tool", lambda name: name)
    first, second = (list(gpu.steps(stage, tmp_path)) for stage in ("first", "second"))
    assert [step.name for step in first][:3] == ["build", "tests of CUDA", f"cases {gpu.GROUPS['first'][0][0]}"]
    assert first[-1].name == "tests of Triton"
    assert first[1].command[first[1].command.index("-k") + 1] == "not triton"
    (profiled,) = (step.command for step in second if step.name == "ncu")
    assert profiled[profiled.index("--clock-control") + 1] == "none"
    assert "memcheck" in [step.name for step in second]


def test_ncu_looks_at_every_kernel():
    kernels = []
    for file in (ROOT / "csrc/dcam/cuda").glob("*.cu*"):
        kernels += re.findall(r"__global__ void(?:\s+__launch_bounds__\([^{;]*?\))?\s+(\w+)\(", file.read_text("utf-8"))
    pattern = gpu.KERNELS.removeprefix("regex:")
    assert len(kernels) > 10
    assert {name for name in kernels if not re.search(pattern, name)} == {"probe"}


@pytest.mark.skipif(_backends.native is None, reason="needs the extension, which is not built here")
def test_calls_for_the_tools(monkeypatch):
    called = set()
    for name in ("diffusion_cam", "refine", "guided_filter", "rank_filter", "overlay", "upsample"):
        op = getattr(gpu_calls.ops, name)
        monkeypatch.setattr(
            gpu_calls.ops, name, lambda *args, op=op, name=name, **options: called.add(name) or op(*args, **options)
        )
    gpu_calls.run("cpu", "cpu", side=6, targets=9, channels=16)
    assert called == {"diffusion_cam", "refine", "guided_filter", "rank_filter", "overlay", "upsample"}


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
    assert gpu.main([]) == gpu.NO_GPU
    assert "no GPU" in capsys.readouterr().out
