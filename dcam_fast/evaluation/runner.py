"""Methods over a dataset, one record a sample, into a folder: a run that was stopped goes on where it stopped."""

from __future__ import annotations

import fcntl
import functools
import json
import multiprocessing.connection
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import IO, Any, Final

import torch
from torch import Tensor

from dcam_fast import models
from dcam_fast._version import __version__
from dcam_fast.attribution.methods.presets import METHODS
from dcam_fast.attribution.methods.protocol import AttributionMethod
from dcam_fast.attribution.methods.shared import describe
from dcam_fast.attribution.threads import threads_of
from dcam_fast.config import profile as profile_by_name
from dcam_fast.entries import Entry, read_json
from dcam_fast.evaluation.aggregate import Aggregate, Estimate
from dcam_fast.evaluation.cases import Case, case_maps, curve_metrics, mask_maps, measure, prepare
from dcam_fast.evaluation.datasets import Dataset
from dcam_fast.evaluation.perturbation import SHARES, Perturbation
from dcam_fast.evaluation.randomization import randomization_test
from dcam_fast.folders import check_writable, naming, replacing, write_json
from dcam_fast.models.adapter import Adapter
from dcam_fast.modes import own_modes
from dcam_fast.ops.threads import set_num_threads

SCHEMA: Final = 2
TRUE_MASK: Final = "true_mask"  # not a method, for it knows the answer: the upper end of the scale
RUN: Final = "run.json"
RECORDS: Final = "records.jsonl"
SUMMARY: Final = "summary.json"

Record = dict[str, Any]


def check_methods(names: Sequence[str]) -> None:
    """Raises ValueError for anything but some names of `METHODS`, or `TRUE_MASK`, each once."""
    known = (*METHODS, TRUE_MASK)
    if not names or len(set(names)) != len(names):
        raise ValueError(f"evaluate: methods must be one at least, each once, got {', '.join(names) or 'none'}")
    for name in names:
        if name not in known:
            raise ValueError(f"evaluate: method must be one of {', '.join(known)}, got {name!r}")


@dataclass(frozen=True)
class Settings:
    """What makes two runs comparable, and a stopped one the same as its continuation.

    Attributes:
        model, device, attention, dtype, trust_remote_code: as `dcam_fast.models.load` takes them.
        data: as `open_dataset` takes it.
        methods: names of `METHODS`, or `TRUE_MASK`.
        seed: of the scenes.
        profile: the refinement that all methods get, as `profile_by_name` takes it; None: each its own.
        steps, block_length: of the generation; None: the model's own.
        shares: of the cells, at which the deletion and insertion curves are measured.
        randomized: how many of the first samples get the model-randomization test.

    Raises ValueError for a method or a profile there is none of.
    """

    model: str
    data: str
    methods: tuple[str, ...]
    seed: int
    device: str = "cpu"
    attention: str | None = None
    dtype: str | None = None
    trust_remote_code: bool = False
    profile: str | None = None
    steps: int | None = None
    block_length: int | None = None
    shares: tuple[float, ...] = SHARES
    randomized: int = 0

    def __post_init__(self) -> None:
        check_methods(self.methods)
        if self.profile is not None:
            profile_by_name(self.profile)

    def load(self) -> Adapter[Any]:
        """The model."""
        return models.load(
            self.model,
            device=self.device,
            attention=self.attention,
            dtype=self.dtype,
            trust_remote_code=self.trust_remote_code,
        )

    @property
    def attributions(self) -> dict[str, AttributionMethod]:
        """The methods by name, without the true mask."""
        methods = {name: METHODS[name] for name in self.methods if name != TRUE_MASK}
        if self.profile is None:
            return methods
        refinement = profile_by_name(self.profile)
        return {name: replace(method, profile=refinement) for name, method in methods.items()}  # type: ignore[type-var]


@dataclass(frozen=True)
class Summary:
    """What a folder of records says.

    Attributes:
        samples: how many were run. named: how many of them had a word that names a region. words: how many such.
        missing: how many regions no word of the answer names; nothing is measured of them.
        table: for each method, for each metric, its mean over words with a bootstrap interval.
        curves: for each method, ``deletion`` and ``insertion``: mean probability at each share of the cells.
        randomization: for each method, mean correlation after each further block; empty without the test.
        seconds: of computing, all runs together.
    """

    samples: int
    named: int
    words: int
    missing: int
    shares: tuple[float, ...]
    table: dict[str, dict[str, Estimate]]
    curves: dict[str, dict[str, list[float]]]
    randomization: dict[str, list[float]]
    seconds: float


def all_maps(adapter: Adapter[Any], case: Case, settings: Settings) -> dict[str, Tensor]:
    """The maps ``[T, h, w]`` of a case by every method of a run, in its order."""
    maps = case_maps(adapter, case, settings.attributions)
    if TRUE_MASK in settings.methods:
        maps[TRUE_MASK] = mask_maps(case)
    return {name: maps[name] for name in settings.methods}


@own_modes()
def evaluate_sample(adapter: Adapter[Any], dataset: Dataset, index: int, settings: Settings) -> Record:
    """The record of one sample: its answer, the words that name something, and what was measured of their maps."""
    with threads_of(adapter):
        return _record(adapter, dataset, index, settings)


def _record(adapter: Adapter[Any], dataset: Dataset, index: int, settings: Settings) -> Record:
    started = time.perf_counter()
    sample = dataset[index]
    answer, case = prepare(adapter, sample, settings.steps, settings.block_length)
    found = set() if case is None else set(case.owners.tolist())
    missing = [region.name for place, region in enumerate(sample.regions) if place not in found]
    record: Record = {"index": index, "id": sample.id, "answer": answer, "words": [], "missing": missing, "methods": {}}
    if case is not None:
        owners = case.owners.tolist()
        record["words"] = [
            {"text": word.text, "positions": word.positions, "region": sample.regions[owner].name}
            for word, owner in zip(case.words, owners, strict=True)
        ]
        perturbation = Perturbation(adapter, case.inputs, case.trajectory, case.words, settings.shares)
        for name, maps in all_maps(adapter, case, settings).items():
            curves = perturbation.curves(maps)
            record["methods"][name] = {
                "metrics": measure(case, maps) | curve_metrics(curves),
                "deletion": curves.deletion.tolist(),
                "insertion": curves.insertion.tolist(),
            }
        if index < settings.randomized:
            record["randomization"] = randomization_test(
                adapter, case.inputs, case.trajectory, case.words, settings.attributions, settings.seed
            )
    return record | {"seconds": time.perf_counter() - started}


def run(
    adapter: Adapter[Any],
    dataset: Dataset,
    settings: Settings,
    folder: Path,
    limit: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
    workers: int = 1,
) -> list[Record]:
    """Evaluates the first ``limit`` samples, those that ``folder`` holds no record of, and returns all their records.

    A record is on the disk before the next one is waited for. What a killed run had written of a record is removed.

    Args:
        workers: processes to share the samples; with more than one each loads the model for itself, and
            ``adapter`` is not used.
        progress: called with how many samples are done and how many there are, at first and after each.

    Raises:
        ValueError: where the folder holds a run of other settings or records that are not this program's.
        BlockingIOError: where another run is writing to it.
    """
    total = min(limit, len(dataset))
    with _open_records(folder, settings) as (file, records):
        done = {record["index"] for record in records}
        left = [index for index in range(total) if index not in done]
        progress(total - len(left), total)
        evaluated = (
            (evaluate_sample(adapter, dataset, index, settings) for index in left)
            if workers == 1
            else _shared_out(dataset, settings, left, workers)
        )
        for count, record in enumerate(evaluated, total - len(left) + 1):
            file.write(json.dumps(record) + "\n")
            file.flush()
            os.fsync(file.fileno())
            records.append(record)
            progress(count, total)
    return sorted((record for record in records if record["index"] < total), key=lambda record: record["index"])


def _shared_out(dataset: Dataset, settings: Settings, indices: Sequence[int], workers: int) -> Iterator[Record]:
    """The records of samples as they are finished, by processes that share them and the threads of this one."""
    threads = max(torch.get_num_threads() // workers, 1)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, _begin_work, (dataset, settings, threads)) as pool:
        futures = [pool.submit(_work, index) for index in indices]
        try:
            for future in as_completed(futures):
                yield future.result()
        finally:
            pool.shutdown(cancel_futures=True)


_work_on: tuple[Dataset, Settings]  # of a process of `_shared_out`
_load = functools.cache(Settings.load)


def _begin_work(dataset: Dataset, settings: Settings, threads: int) -> None:
    global _work_on
    parent = multiprocessing.parent_process()
    assert parent is not None

    def leave_with_parent() -> None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)  # killed, it could not say that it will ask for nothing more

    threading.Thread(target=leave_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
    set_num_threads(threads)
    _work_on = dataset, settings


def _work(index: int) -> Record:
    dataset, settings = _work_on
    return evaluate_sample(_load(settings), dataset, index, settings)


@contextmanager
def _open_records(folder: Path, settings: Settings) -> Iterator[tuple[IO[str], list[Record]]]:
    """The file of records, open at its end and locked, and the whole records that it holds."""
    check_writable(folder, "evaluate")
    path = folder / RECORDS
    # in ASCII, so that a killed run cuts no character in two
    with naming(folder, "evaluate"), path.open("a+", encoding="ascii") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BlockingIOError(f"evaluate: out must be free, got '{folder}', which another run writes to") from error
        _check_settings(folder, settings, path.stat().st_size > 0)
        file.seek(0)
        text = file.read()
        whole = text[: text.rfind("\n") + 1]
        try:
            records = [json.loads(line) for line in whole.split("\n")[:-1]]
            entries = [Entry(record, "evaluate", f"record {number}", path) for number, record in enumerate(records)]
            indices = [entry.field("index").integer(0) for entry in entries]
            for entry in entries:
                entry.field("words").list()
                entry.field("methods").fields()
        except (ValueError, RecursionError) as error:
            raise ValueError(f"evaluate: out must hold records of a run, got '{path}': {error!r}") from error
        if len(set(indices)) != len(indices):
            raise ValueError(f"evaluate: out must hold one record a sample, got '{path}' with some twice")
        file.seek(len(whole))
        file.truncate()
        yield file, records


def _check_settings(folder: Path, settings: Settings, begun: bool) -> None:
    """Writes what the run is, or raises ValueError where the folder holds another one."""
    facts = {
        "schema": SCHEMA,
        "dcam_fast": __version__,
        **json.loads(json.dumps(asdict(settings))),
        "settings": {
            name: {key: str(value) for key, value in {**describe(m), "profile": m.profile}.items()}
            for name, m in settings.attributions.items()
        },
    }
    path = folder / RUN
    if not begun:
        with replacing(folder, "evaluate") as draft:
            write_json(draft / RUN, facts | {"torch": torch.__version__})
        return
    try:
        former = {name: entry.value for name, entry in read_json(path, "evaluate", RUN).fields().items()}
    except (OSError, ValueError) as error:
        raise ValueError(f"evaluate: out must be empty or hold a run, got '{folder}' without a sound {RUN}") from error
    differing = [name for name, value in facts.items() if former.get(name) != value]
    if differing:
        name = differing[0]
        raise ValueError(
            f"evaluate: {name} must be what the run in '{folder}' began with, {former.get(name)}, got {facts[name]}"
        )


def summarize(records: list[Record], settings: Settings) -> Summary:
    """Means over words, with intervals from resampled samples."""
    named = [record for record in records if record["words"]]
    table, curves = {}, {}
    for name in settings.methods:
        gathered = Aggregate()
        for record in named:
            gathered.update(record["methods"][name]["metrics"])
        table[name] = gathered.compute(seed=settings.seed)
        curves[name] = {
            kind: _column_means([row for record in named for row in record["methods"][name][kind]])
            for kind in ("deletion", "insertion")
        }
    tested = [record["randomization"] for record in named if "randomization" in record]
    return Summary(
        samples=len(records),
        named=len(named),
        words=sum(len(record["words"]) for record in named),
        missing=sum(len(record["missing"]) for record in records),
        shares=(0.0, *settings.shares, 1.0),
        table=table,
        curves=curves,
        randomization={name: _column_means([one[name] for one in tested]) for name in tested[0]} if tested else {},
        seconds=sum(record["seconds"] for record in records),
    )


def _column_means(rows: list[list[float]]) -> list[float]:
    return [sum(column) / len(rows) for column in zip(*rows, strict=True)]


def write_summary(summary: Summary, settings: Settings, folder: Path) -> None:
    """Writes `SUMMARY` into the run's folder."""
    versions = {"dcam_fast": __version__, "torch": torch.__version__}
    facts: Mapping[str, object] = versions | asdict(settings) | asdict(summary)
    with replacing(folder, "evaluate") as draft:
        write_json(draft / SUMMARY, facts)
