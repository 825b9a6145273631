"""`dcam-fast bench`."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dcam_fast.cli.console import elapsed, error_console, one_line, out_console
from dcam_fast.cli.options import Device, Format

if TYPE_CHECKING:
    from dcam_fast.benchmarks.results import Results
    from dcam_fast.benchmarks.suite import BenchmarkPlan


@one_line
def bench(
    device: Device = "cpu",
    quick: Annotated[bool, typer.Option("--quick", help="The main cases only, in less than a minute.")] = False,
    only: Annotated[str, typer.Option(help="Cases whose name contains this, such as 'pool' or 'T=64'.")] = "",
    op: Annotated[
        str | None,
        typer.Option(help="Cases of this op. Default: those of the implementations' function names, or all."),
    ] = None,
    case: Annotated[
        list[str] | None,
        typer.Option(help="A case instead of those of the suite, such as 'refine 40x50 T=8'; repeatable."),
    ] = None,
    implementation: Annotated[
        list[str] | None,
        typer.Option(metavar="MODULE:FUNCTION", help="Your function, or an entry point's name; repeatable."),
    ] = None,
    backend: Annotated[
        str, typer.Option(help="Backends of the ops, separated by commas. Default: all that are available.")
    ] = "",
    format: Annotated[Format, typer.Option(help="What to print.")] = Format.TABLE,
    out: Annotated[Path | None, typer.Option(help="Output folder for JSON, Markdown and plots.")] = None,
    compare: Annotated[
        tuple[Path, Path] | None, typer.Option(metavar="A.json B.json", help="Only show what changed from A to B.")
    ] = None,
) -> None:
    """Benchmark the ops, the post-processing and explanations, each checked against the reference first."""
    from dcam_fast.benchmarks import suite
    from dcam_fast.benchmarks.files import write
    from dcam_fast.cli import bench_output
    from dcam_fast.folders import check_writable
    from dcam_fast.models import check_device

    if compare is not None:
        bench_output.print_changes(_read(compare[0]), _read(compare[1]), format, out_console)
        return
    check_device("bench", device)
    plan = _plan(device, only, op, case or [], implementation or [], backend)
    plan = suite.quick_plan(plan, elapsed()) if quick else plan
    if out is not None:
        check_writable(out, "bench")
    with out_console.status("starting") as status:
        results = suite.run(plan, lambda name: status.update(f"measuring {name}"))
    bench_output.print_results(results, format, out_console)
    if out is not None:
        for path in write(results, out, f"{date.today()}-{device.replace(':', '')}"):
            (out_console if format is Format.TABLE else error_console).print(str(path), markup=False)
    _refuse_wrong(results)


def _plan(
    device: str, only: str, op: str | None, cases: list[str], implementations: list[str], backends: str
) -> BenchmarkPlan:
    """The plan that the options ask for.

    Raises:
        ValueError: an option is wrong.
        TypeError: an implementation cannot be called.
    """
    from dcam_fast.benchmarks.case_names import parse_case
    from dcam_fast.benchmarks.custom import load_implementation
    from dcam_fast.benchmarks.op_cases import OPS
    from dcam_fast.benchmarks.suite import BenchmarkPlan

    if op is not None and op not in OPS:
        raise ValueError(f"bench: op must be one of {', '.join(OPS)}, got {op!r}")
    custom = tuple(load_implementation(name, op) for name in dict.fromkeys(implementations))
    ops = [op] if op else list(dict.fromkeys(item.op for item in custom))
    chosen = tuple(dict.fromkeys(parse_case(text, ops[0] if len(ops) == 1 else None) for text in cases))
    for case in chosen:
        if ops and case.op not in ops:
            raise ValueError(f"bench: case must be of {' or '.join(ops)}, got {case.name!r}")
    names = tuple(dict.fromkeys(filter(None, map(str.strip, backends.split(",")))))
    return BenchmarkPlan(device, only=only, backends=names, custom=custom, op=op, chosen=chosen)


def _refuse_wrong(results: Results) -> None:
    """Fails the command if a custom implementation failed a correctness check.

    Raises:
        ValueError: one did; the message names the first case of each.
    """
    from dcam_fast.benchmarks.results import origin_of

    first: dict[str, str] = {}
    for entry in results.entries:
        if entry.wrong and origin_of(entry.implementation) == "custom":
            first.setdefault(entry.implementation, f"{entry.implementation} in {entry.case!r}: {entry.reason}")
    if first:
        raise ValueError(f"bench: implementation must agree with the reference, got {'; '.join(first.values())}")


def _read(path: Path) -> Results:
    """The results in a file.

    Raises:
        ValueError: it is not a result file; the message names it.
    """
    from dcam_fast.benchmarks.results import Results

    try:
        return Results.from_json(path.read_text("utf-8"))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise ValueError(f"bench: compare must name result files of bench, got '{path}' ({reason})") from error
