"""The packages and their order: a module imports only from its own package and from those below it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# From the lowest to the highest; those of one line do not import each other.
ORDER = (
    ("_version", "checks"),
    ("config", "json_entries", "folders", "torch_modes", "words"),
    ("contrast", "images", "interruption"),
    ("ops", "scenes"),
    ("kernels", "models"),
    ("attribution", "explained_answer", "environment"),
    ("output",),
    ("explanation",),
    ("encodings", "session", "testing"),
    ("budget", "many", "streaming"),
    ("preparation",),
    ("explainer",),
    ("evaluation", "service"),
    ("benchmarks",),
    ("cli",),
    ("__main__",),
)
RANK = {package: rank for rank, packages in enumerate(ORDER) for package in packages}
LONGEST = 400  # lines of a file
# The surface loads what it names on first use.
LAZY = {"dcam_fast"}


def modules() -> dict[str, Path]:
    """Every module of the package by its dotted name."""
    return {name_of(file): file for file in _python_files()}


def _python_files() -> Iterator[Path]:
    for folder in ("dcam_fast", "dcam_fast/kernels", "dcam_fast/benchmarks"):
        for file in (ROOT / folder).rglob("*.py"):  # which does not follow links
            if not file.name.startswith(("test_", "conftest")):
                yield file


def name_of(file: Path) -> str:
    return ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imports_of(name: str, file: Path, known: dict[str, Path]) -> set[str]:
    """The modules of this package that a module imports, at its top or in a function; not those for types alone."""
    found: set[str] = set()
    nodes: list[ast.AST] = [ast.parse(file.read_text("utf-8"))]
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name in known}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            for alias in node.names:
                module = f"{node.module}.{alias.name}"
                found |= {module if module in known else node.module} & known.keys()
        nodes += ast.iter_child_nodes(node)
    return found - {name} - LAZY


GRAPH = {name: imports_of(name, file, modules()) for name, file in modules().items()}


def package_of(module: str) -> str:
    return module.split(".")[1]


def test_every_module_has_a_place() -> None:
    placed = {package_of(name) for name in GRAPH if name not in LAZY}
    assert placed <= RANK.keys(), placed - RANK.keys()


def test_no_module_imports_from_a_higher_package() -> None:
    climbing = [
        f"{name} -> {other}"
        for name, others in GRAPH.items()
        if name not in LAZY
        for other in others
        if package_of(name) != package_of(other) and RANK[package_of(other)] >= RANK[package_of(name)]
    ]
    assert not climbing


def test_no_circle() -> None:
    # a package's own __init__ re-exports what lies in it: those are no arrows of the modules below
    graph = {name: others for name, others in GRAPH.items() if modules()[name].name != "__init__.py"}
    try:
        tuple(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_no_file_is_too_long() -> None:
    files = [*_python_files(), *(ROOT / "tests").rglob("*.py"), *(ROOT / "csrc").rglob("*.[hc]*")]
    long = [f"{file.relative_to(ROOT)}: {len(file.read_text('utf-8').splitlines())}" for file in files]
    assert not [line for line in long if int(line.rpartition(" ")[2]) > LONGEST]


def test_an_import_in_a_function_is_seen(tmp_path: Path) -> None:
    file = tmp_path / "low.py"
    file.write_text("def late():\n    from dcam_fast.explainer import Explainer\n    return Explainer\n")
    assert imports_of("dcam_fast.low", file, modules()) == {"dcam_fast.explainer"}
