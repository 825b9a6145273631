"""Evaluates methods on a dataset, with one record for each sample. A stopped run continues where it stopped."""

from __future__ import annotations

import functools
import json
import multiprocessing.connection
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from dcam_fast import models
from dcam_fast._version import __version__
from dcam_fast.attribution.methods.presets import METHODS
from dcam_fast.attribution.methods.protocol import AttributionMethod
from dcam_fast.attribution.methods.shared import describe
from dcam_fast.attribution.resources import computing
from dcam_fast.config import profile as profile_by_name
from dcam_fast.evaluation.aggregate import Aggregate, Estimate
from dcam_fast.evaluation.cases import EvaluationCase, case_maps, mask_maps, prepare
from dcam_fast.evaluation.datasets import Dataset
from dcam_fast.evaluation.measurement import curve_metrics, measure
from dcam_fast.evaluation.perturbation import SHARES, Perturbation
from dcam_fast.evaluation.randomization import randomization_test
from dcam_fast.evaluation.records import Record, open_records
from dcam_fast.evaluation.registry import METRICS
from dcam_fast.folders import replacing, write_json
from dcam_fast.models.adapter import Adapter
from dcam_fast.models.generation import Generation
from dcam_fast.ops.threads import set_num_threads

SCHEMA: Final = 2
TRUE_MASK: Final = "true_mask"  # the ground truth as a map, not a method: an upper bound for localization
SUMMARY: Final = "summary.json"


def check_methods(names: Sequence[str]) -> None:
    """Checks that names are distinct and known.

    Raises:
        ValueError: unless there is at least one name, each from `METHODS` or `TRUE_MASK`, and none occurs twice.
    """
    known = (*METHODS, TRUE_MASK)
    if not names or len(set(names)) != len(names):
        raise ValueError(f"evaluate: methods must be distinct, at least one, got {', '.join(names) or 'none'}")
    for name in names:
        if name not in known:
            raise ValueError(f"evaluate: method must be one of {', '.join(known)}, got {name!r}")


@dataclass(frozen=True)
class EvaluationConfig:
    """The settings of a run. A run continues only with the settings that it began with.

    Attributes:
        model: as `dcam_fast.models.load` takes it, like `device`, `attention`, `dtype` and `trust_remote_code`.
        data: as `open_dataset` takes it.
        methods: names of `METHODS`, or `TRUE_MASK`.
        seed: of the scenes, the bootstrap and the randomized weights.
        device: where the model runs.
        attention: the topology; None for the model's own.
        answer_length: tokens in an answer; None for the model's default.
        view: the default view of the image; None for the family's default.
        vision_tower: folder or Hub id of the vision tower; None for that of the checkpoint.
        dtype: of the weights; None for the default of the family.
        trust_remote_code: run code that comes with the checkpoint.
        profile: name of one refinement for all methods; None for the profile of each method.
        steps: denoising steps; None for the model's default.
        block_length: of the generation; None for the model's default.
        shares: shares of the cells at which the deletion and insertion curves are measured.
        randomized: number of samples, from the first, that get the model-randomization test.

    Raises:
        ValueError: if a method or the profile is unknown.

    Example:
        >>> config = EvaluationConfig("tiny", "scenes", ("default", "true_mask"), seed=31000)
        >>> list(config.attributions)
        ['default']
    """

    model: str
    data: str
    methods: tuple[str, ...]
    seed: int
    device: str = "cpu"
    attention: str | None = None
    answer_length: int | None = None
    view: str | None = None
    vision_tower: str | None = None
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

    @property
    def generation(self) -> Generation:
        """How answers are generated."""
        return Generation(self.steps, self.block_length)

    def load(self) -> Adapter[Any]:
        """Loads the model."""
        return models.load(
            self.model,
            device=self.device,
            attention=self.attention,
            answer_length=self.answer_length,
            view=self.view,
            vision_tower=self.vision_tower,
            dtype=self.dtype,
            trust_remote_code=self.trust_remote_code,
        )

    @property
    def attributions(self) -> dict[str, AttributionMethod]:
        """The methods by name, without `TRUE_MASK`."""
        methods = {name: METHODS[name] for name in self.methods if name != TRUE_MASK}
        if self.profile is None:
            return methods
        refinement = profile_by_name(self.profile)
        return {name: replace(method, profile=refinement) for name, method in methods.items()}  # type: ignore[type-var]

    def facts(self) -> dict[str, object]:
        """What distinguishes this run from another one, as JSON values."""
        return {
            "schema": SCHEMA,
            "dcam_fast": __version__,
            **json.loads(json.dumps(asdict(self))),
            "settings": {
                name: {key: str(value) for key, value in {**describe(method), "profile": method.profile}.items()}
                for name, method in self.attributions.items()
            },
            "metrics": list(METRICS),
        }


@dataclass(frozen=True)
class Summary:
    """The results of a run.

    Attributes:
        samples: number of samples.
        named: number of samples whose answer names a region.
        words: number of words that name a region.
        missing: number of regions that no word names; they are not measured.
        shares: shares of the cells of the curves, with 0 and 1.
        table: for each method and metric, the estimate over words.
        curves: for each method, `deletion` and `insertion`: mean probability at each share of the cells.
        randomization: for each method, mean correlation with 1, 2, ... randomized layers; empty without the test.
        seconds: computing time of all samples.
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


def all_maps(adapter: Adapter[Any], case: EvaluationCase, config: EvaluationConfig) -> dict[str, Tensor]:
    """The maps `[T, h, w]` of a case by every method of a run, in order."""
    maps = case_maps(adapter, case, config.attributions)
    if TRUE_MASK in config.methods:
        maps[TRUE_MASK] = mask_maps(case)
    return {name: maps[name] for name in config.methods}


def evaluate_sample(adapter: Adapter[Any], dataset: Dataset, index: int, config: EvaluationConfig) -> Record:
    """The record of one sample: its answer, the words that name a region, and the metrics of their maps."""
    with computing(adapter):
        return _record(adapter, dataset, index, config)


def _record(adapter: Adapter[Any], dataset: Dataset, index: int, config: EvaluationConfig) -> Record:
    started = time.perf_counter()
    sample = dataset[index]
    answer, case = prepare(adapter, sample, config.generation)
    named = set() if case is None else set(case.region_index.tolist())
    missing = [region.name for number, region in enumerate(sample.regions) if number not in named]
    record: Record = {"index": index, "id": sample.id, "answer": answer, "words": [], "missing": missing, "methods": {}}
    if case is not None:
        record["words"] = [
            {"text": word.text, "positions": word.positions, "region": sample.regions[index].name}
            for word, index in zip(case.words, case.region_index.tolist(), strict=True)
        ]
        perturbation = Perturbation(adapter, case.inputs, case.trajectory, case.words, config.shares)
        for name, maps in all_maps(adapter, case, config).items():
            curves = perturbation.curves(maps)
            record["methods"][name] = {
                "metrics": measure(case, maps) | curve_metrics(curves),
                "deletion": curves.deletion.tolist(),
                "insertion": curves.insertion.tolist(),
            }
        if index < config.randomized:
            record["randomization"] = randomization_test(
                adapter, case.inputs, case.trajectory, case.words, config.attributions, config.seed
            )
    return record | {"seconds": time.perf_counter() - started}


def run(
    adapter: Adapter[Any],
    dataset: Dataset,
    config: EvaluationConfig,
    folder: Path,
    limit: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
    workers: int = 1,
) -> list[Record]:
    """Evaluates the first `limit` samples that `folder` has no record of, and returns the records of all of them.

    A record is on disk before the next one is awaited. A record that a killed run left incomplete is removed.

    Args:
        adapter: the model; not used with several workers, which load it themselves.
        dataset: any sequence of `Sample`.
        config: the settings.
        folder: of the run, made if it does not exist.
        limit: maximum number of samples.
        progress: called with the number of finished samples and the total, at the start and after each sample.
        workers: processes that share the samples. With several, `dataset` must be picklable.

    Raises:
        ValueError: if the folder has a run with other settings, or records of another program.
        BlockingIOError: if another run writes to the folder.

    Example:
        >>> import tempfile
        >>> from dcam_fast.evaluation.datasets import Scenes
        >>> config = EvaluationConfig("tiny", "scenes", ("random",), seed=31000, shares=(0.1,))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     records = run(config.load(), Scenes(1, 31000), config, Path(folder), limit=1)
        >>> summarize(records, config).words
        9
    """
    total = min(limit, len(dataset))
    with open_records(folder, config.facts()) as (file, records):
        done = {record["index"] for record in records}
        pending = [index for index in range(total) if index not in done]
        progress(total - len(pending), total)
        evaluated = (
            (evaluate_sample(adapter, dataset, index, config) for index in pending)
            if workers == 1
            else _in_workers(dataset, config, pending, workers)
        )
        for count, record in enumerate(evaluated, total - len(pending) + 1):
            file.write(json.dumps(record) + "\n")
            file.flush()
            os.fsync(file.fileno())
            records.append(record)
            progress(count, total)
    return sorted((record for record in records if record["index"] < total), key=lambda record: record["index"])


def _in_workers(dataset: Dataset, config: EvaluationConfig, indices: Sequence[int], workers: int) -> Iterator[Record]:
    """The records of samples in the order in which they are finished. The workers share the threads of this process."""
    threads = max(torch.get_num_threads() // workers, 1)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, _initialize_worker, (dataset, config, threads)) as pool:
        futures = [pool.submit(_evaluate_in_worker, index) for index in indices]
        try:
            for future in as_completed(futures):
                yield future.result()
        finally:
            pool.shutdown(cancel_futures=True)


_worker_job: tuple[Dataset, EvaluationConfig]  # in a worker process
_load = functools.cache(EvaluationConfig.load)


def _initialize_worker(dataset: Dataset, config: EvaluationConfig, threads: int) -> None:
    global _worker_job
    parent = multiprocessing.parent_process()
    assert parent is not None

    def exit_with_parent() -> None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)  # a killed parent cannot shut down its workers

    threading.Thread(target=exit_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
    set_num_threads(threads)
    _worker_job = dataset, config


def _evaluate_in_worker(index: int) -> Record:
    dataset, config = _worker_job
    return evaluate_sample(_load(config), dataset, index, config)


def summarize(records: list[Record], config: EvaluationConfig) -> Summary:
    """Means over words, with bootstrap intervals over samples."""
    named = [record for record in records if record["words"]]
    table, curves = {}, {}
    for name in config.methods:
        aggregate = Aggregate()
        for record in named:
            aggregate.update(record["methods"][name]["metrics"])
        table[name] = aggregate.compute(seed=config.seed)
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
        shares=(0.0, *config.shares, 1.0),
        table=table,
        curves=curves,
        randomization={name: _column_means([correlations[name] for correlations in tested]) for name in tested[0]}
        if tested
        else {},
        seconds=sum(record["seconds"] for record in records),
    )


def _column_means(rows: list[list[float]]) -> list[float]:
    return [sum(column) / len(rows) for column in zip(*rows, strict=True)]


def write_summary(summary: Summary, config: EvaluationConfig, folder: Path) -> None:
    """Writes `SUMMARY` into the folder of the run."""
    versions = {"dcam_fast": __version__, "torch": torch.__version__}
    facts: Mapping[str, object] = versions | asdict(config) | asdict(summary)
    with replacing(folder, "evaluate") as draft:
        write_json(draft / SUMMARY, facts)
