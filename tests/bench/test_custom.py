"""Custom implementations, cases from the command line, and what is printed. Nothing depends on a timing."""

from __future__ import annotations

import csv
import doctest
import io
import json
import re
import sys
import types
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from dcam_fast import ops
from dcam_fast.benchmarks import case_names, custom, pytest_cases, results, suite
from dcam_fast.benchmarks.case_names import parse_case
from dcam_fast.benchmarks.custom import CustomImplementation, load_implementation
from dcam_fast.benchmarks.op_cases import OPS, all_cases, exact, make_inputs, op_arguments
from dcam_fast.benchmarks.plots import write_plots
from dcam_fast.benchmarks.results import Entry, Results, now
from dcam_fast.benchmarks.suite import BenchmarkPlan, check_correctness
from dcam_fast.benchmarks.timing import Limits
from dcam_fast.cli import app as cli
from dcam_fast.ops import reference

SOURCE = """
from dcam_fast.ops import reference

def pool(activations, gradients, *, aggregation):
    if aggregation != "elementwise":
        raise NotImplementedError("elementwise only")
    return reference.pool(activations, gradients, None, aggregation)

def wrong(activations, gradients, *, aggregation):
    return pool(activations, gradients, aggregation=aggregation) + 1e-3

number = 3
"""
SMALL = ("pool 3x5 D=8 T=2", "pool pooled 3x5 D=8", "refine 7x9", "refine default 7x9", "guided_filter 7x9 T=2",
         "overlay 3x4 20x30 px", "diffusion_cam 5x7 D=8", "diffusion_cam pooled, default 5x7 D=8")  # fmt: skip


@pytest.fixture
def module(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A module in the current folder, which is not on the path."""
    (tmp_path / "given_kernels.py").write_text(SOURCE)
    (tmp_path / "given_broken.py").write_text("raise OSError('no such library')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield "given_kernels"
    sys.modules.pop("given_kernels", None)


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Runs the command with three samples of each call, without the machine's limits."""
    plain = suite.measure
    short = {"cold": False, "budget_s": 0.0, "max_samples": 3, "min_samples": 3}
    monkeypatch.setattr(suite, "measure", lambda timer, calls, **_: plain(timer, calls, **short))
    monkeypatch.setattr(suite, "measure_limits", lambda timer: Limits(1e9, 1e9))
    return lambda *arguments: CliRunner().invoke(cli.app, ["bench", *arguments])


@pytest.mark.parametrize("module", [case_names, custom, results])
def test_examples_run(module: types.ModuleType) -> None:
    result = doctest.testmod(module)
    assert result.attempted > 0
    assert result.failed == 0


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_names_are_parsed_to_their_cases(device: str) -> None:
    for case in all_cases(device):
        assert parse_case(case.name).name == case.name
        assert parse_case(case.name).work == case.work


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("27x27", "the op is missing"),
        ("refine", "one grid is needed"),
        ("refine 3x3 4x4", "one grid is needed"),
        ("refine sharp 3x3", "'sharp' is no variant of refine"),
        ("pool released 3x3", "'released' is no variant of pool"),
        ("refine 3x3 D=4", "float32 maps, without channels"),
        ("refine 3x3 bfloat16", "float32 maps, without channels"),
        ("pool 3x3 64x64 px", "pool has no image"),
        ("pool 3x3 T=0", "sizes must be positive"),
        ("refine 1x1", "a grid needs two cells"),
        ("overlay 3x3 0x9 px", "sizes must be positive"),
    ],
)
def test_other_names_are_rejected(text: str, problem: str) -> None:
    with pytest.raises(ValueError, match=rf"^bench: case must be like .*, got '{text}': .*{problem}"):
        parse_case(text)


@pytest.mark.parametrize("text", SMALL)
def test_a_function_with_the_arguments_of_the_op(text: str) -> None:
    """The op itself, called as a custom implementation; `diffusion_cam` of this package takes no guide."""
    case = parse_case(text)

    def function(*tensors: torch.Tensor, **settings: Any) -> torch.Tensor:
        if case.op == "diffusion_cam":
            guide, grid = settings.pop("guide"), settings.pop("grid")
            raw = ops.pool(*tensors, aggregation=settings.pop("aggregation"), backend="reference")
            return ops.refine(raw.view(-1, *grid), guide=guide, **settings, backend="reference")
        return getattr(ops, case.op)(*tensors, **settings, backend="reference")

    candidates = CustomImplementation("m:f", case.op, function).implementations(case, "cpu")
    calls, rejected = check_correctness(case, "cpu", candidates)
    assert rejected == {}
    assert list(calls) == ["m:f"]


def spoiled(kind: str) -> Callable[..., Any]:
    seen: list[torch.Tensor] = []

    def pool(activations: torch.Tensor, gradients: torch.Tensor, *, aggregation: str) -> Any:
        right = reference.pool(activations, gradients, None, aggregation)
        seen.append(right)
        match kind:
            case "value":
                right[1, 4] += 1
            case "dtype":
                return right.double()
            case "shape":
                return right[:, None]
            case "type":
                return right.numpy()
            case "nan":
                right[0, 2] = torch.nan
            case "inputs":
                activations.zero_()
            case "second":
                right *= len(seen) == 1
            case "raises":
                raise RuntimeError("no such kernel\nand more")
            case "unsupported":
                raise NotImplementedError("float16 only")
        return right

    return pool


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("value", r"off by 1\.0e\+00 at \[1, 4\], over 2e-05"),
        ("dtype", "dtype float64, not float32"),
        ("shape", r"shape \[2, 1, 15\], not \[2, 15\]"),
        ("type", "a ndarray, not a tensor"),
        ("nan", r"not finite at \[0, 2\]"),
        ("inputs", "it changes its inputs"),
        ("second", "off by .* on its second call"),
        ("raises", "RuntimeError: no such kernel"),
        ("unsupported", "float16 only"),
    ],
)
def test_wrong_functions_are_not_timed(kind: str, reason: str) -> None:
    case = parse_case(SMALL[0])
    spoiler = CustomImplementation("m:spoiled", "pool", spoiled(kind)).implementation()
    right = CustomImplementation("m:right", "pool", spoiled("")).implementation()
    calls, rejected = check_correctness(case, "cpu", [spoiler, right])
    assert list(calls) == ["m:right"], "changed inputs are restored"
    assert rejected["m:spoiled"].wrong == (kind != "unsupported")
    assert re.fullmatch(reason, rejected["m:spoiled"].reason)


def test_cases_of_other_ops_are_left_out(module: str) -> None:
    item = load_implementation(f"{module}:pool")
    assert item.implementations(parse_case("refine 7x9"), "cpu") == []
    assert {case.op for case in BenchmarkPlan(custom=(item,)).cases()} == {"pool"}
    assert not BenchmarkPlan(custom=(item,)).explains()
    assert BenchmarkPlan().explains()
    chosen = parse_case("pool 3x5 D=8")
    assert BenchmarkPlan(quick=True, chosen=(chosen,)).cases() == [chosen]


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("given_kernels", ValueError, r"module:function or an entry point \(none is installed\), got 'given_kernels'"),
        ("no_such:f", ValueError, r"in a module that imports, got 'no_such:f' \(ModuleNotFoundError: "),
        ("given_broken:f", ValueError, r"in a module that imports, got .* \(OSError: no such library\)"),
        ("given_kernels:nothing", ValueError, "a function of its module, got .* has no attribute 'nothing'"),
        ("given_kernels:number", TypeError, "callable, got 'given_kernels:number', of type int"),
        ("given_kernels:wrong", ValueError, "op must be one of pool, .*, got 'wrong': give --op"),
    ],
)
@pytest.mark.usefixtures("module")
def test_names_that_cannot_be_loaded(
    name: str, error: type[Exception], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(custom, "entry_points", lambda group: ())
    with pytest.raises(error, match=f"^bench: (implementation must be )?{message}"):
        load_implementation(name)


def test_entry_points(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    points = {custom.GROUP: [EntryPoint("fast-pool", f"{module}:pool", custom.GROUP)]}
    monkeypatch.setattr(custom, "entry_points", lambda group: points[group])
    found = load_implementation("fast-pool")
    assert (found.name, found.op) == (f"{module}:pool", "pool")
    with pytest.raises(ValueError, match=r"an entry point \(fast-pool\), got 'slow-pool'"):
        load_implementation("slow-pool")


def test_csv_and_json(bench: Callable[..., Any], module: str, tmp_path: Any) -> None:
    options = ("--implementation", f"{module}:pool", "--case", "3x5 D=8", "--case", "pool pooled 3x5 D=8", "--backend",
               "reference")  # fmt: skip
    shown = bench(*options, "--format", "csv", "--out", str(tmp_path / "out"))
    assert shown.exit_code == 0, shown.output
    rows = list(csv.DictReader(io.StringIO(shown.stdout)))
    timed = {(row["case"], row["implementation"], row["cache"]) for row in rows if row["median"]}
    name = "pool elementwise 3x5 D=8 float32 T=1"
    assert {(name, who, cache) for who in (f"{module}:pool", "dcam_fast reference") for cache in ("cold", "warm")} <= (
        timed
    )
    assert [row["reason"] for row in rows if row["implementation"] == f"{module}:pool" and not row["median"]] == [
        "elementwise only"
    ]
    assert not any("dcam_fast cpu" in row["implementation"] for row in rows)
    assert len(list((tmp_path / "out").glob("*.png"))) == 3
    data = json.loads(bench(*options, "--format", "json").stdout)
    assert {entry["case"] for entry in data["entries"]} == {row["case"] for row in rows}


def test_a_wrong_result_fails_the_command(bench: Callable[..., Any], module: str) -> None:
    shown = bench("--implementation", f"{module}:wrong", "--op", "pool", "--case", "3x5 D=8", "--backend", "reference")
    assert shown.exit_code == 1
    assert f"got {module}:wrong in 'pool elementwise 3x5 D=8 float32 T=1': off by 1.0e-03 at [0, " in shown.stderr
    assert f"| {module}:wrong |" in shown.stdout, "the table is printed first"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--op", "sharpen"), "op must be one of pool, refine, "),
        (("--op", "pool", "--case", "refine 3x3"), "case must be of pool, got 'refine released 3x3 float32 T=1'"),
        (("--backend", "cpu,abacus"), "backend must be one of .*reference here, got 'abacus': there is no such"),
        (("--implementation", "no_such:f"), "implementation must be in a module that imports"),
    ],
)
def test_wrong_options_are_refused(bench: Callable[..., Any], options: tuple[str, ...], message: str) -> None:
    shown = bench(*options)
    assert shown.exit_code == 1
    assert re.match(f"error: bench: {message}", shown.stderr), shown.stderr


def entry(case: str, name: str = "m:f", **fields: Any) -> Entry:
    targets = int(case.partition("T=")[2])
    timed = {"median": 1e-3, "p10": 9e-4, "p90": 2e-3, "samples": 3, "floor": 1e-4, **fields}
    return Entry("op", "pool", "layer_cam", case, targets, 15, name, "cpu", "cold", **timed)


def test_changes_as_csv_and_json(bench: Callable[..., Any], tmp_path: Any) -> None:
    machine = dict.fromkeys(("device", "threads", "cores"), "x")
    paths = []
    for index, median in enumerate((1e-3, 1e-4)):
        measured = entry("a, T=1", median=median, p10=0.9 * median, p90=1.1 * median)
        paths.append(tmp_path / f"{index}.json")
        paths[-1].write_text(Results(now(), machine, Limits(1, 1), [measured]).to_json())
    arguments = ["--compare", *map(str, paths), "--format"]
    rows = list(csv.DictReader(io.StringIO(bench(*arguments, "csv").stdout)))
    assert rows == json.loads(bench(*arguments, "json").stdout)
    assert [(row["case"], row["implementation"]) for row in rows] == [("a, T=1", "m:f")]
    assert json.loads(bench("--compare", str(paths[0]), str(paths[0]), "--format", "json").stdout) == []


def test_plots_of_other_cases(tmp_path: Any) -> None:
    """Cases that are not among the main ones are drawn if there are no others; nothing timed, no plot."""
    found = Results(now(), {}, Limits(1, 1), [entry("pool T=3"), entry("pool T=9")])
    assert len(write_plots(found, tmp_path, "a")) == 3
    assert write_plots(Results(now(), {}, Limits(1, 1), []), tmp_path, "b") == []


def test_fixtures_check_the_function() -> None:
    case = parse_case(SMALL[0])
    prepared = pytest_cases.OpCase(case)
    expected = exact(case, make_inputs(case, "cpu"))
    assert (prepared.checked(spoiled(""))() - expected).abs().max() <= 2e-5
    with pytest.raises(AssertionError, match=r"pool in 'pool elementwise 3x5 D=8 float32 T=2': off by"):
        prepared.checked(spoiled("value"))
    with pytest.raises(pytest.skip.Exception, match="float16 only"):
        prepared.checked(spoiled("unsupported"))


def test_every_op_has_cases_and_a_fixture() -> None:
    assert set(case_names.VARIANTS) == set(OPS)
    for op in OPS:
        assert hasattr(ops, op)
        assert hasattr(pytest_cases, f"{op}_case")


def test_the_guide_is_passed_by_keyword() -> None:
    case = parse_case("refine default 7x9")
    maps, guide = make_inputs(case, "cpu")
    tensors, settings = op_arguments(case, (maps, guide))
    assert len(tensors) == 1
    assert tensors[0] is maps
    assert settings["guide"] is guide
