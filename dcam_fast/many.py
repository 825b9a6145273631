"""`explain_many`: explanations of many requests, in their order."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Final, ParamSpec, TypeVar

from dcam_fast.attribution import Resources
from dcam_fast.attribution.resources import computing
from dcam_fast.attribution.threads import new_pool, threads_of, workers
from dcam_fast.explanation import Explanation
from dcam_fast.images import ImageSource
from dcam_fast.interruption import interruptible
from dcam_fast.models.adapter import Adapter
from dcam_fast.models.generation import Generation
from dcam_fast.models.given import AnswerLike
from dcam_fast.models.trajectory import TensorFields, Trajectory
from dcam_fast.session import Session, TargetsLike

P = ParamSpec("P")
T = TypeVar("T")
R = TypeVar("R")
TOGETHER: Final = 4  # requests whose answers a small model generates together; more is hardly faster


@dataclass(frozen=True, eq=False)
class ExplainRequest(TensorFields):
    """What `Explainer.explain_many` explains: an image with a prompt, and the words that get maps.

    Nothing is checked before its turn. What is wrong with a request becomes its `RequestError`.

    Attributes:
        image: as in `Explainer.explain`. A path is read when its turn comes.
        prompt: as in `Explainer.explain`.
        answer: as in `Explainer.explain`.
        targets: as in `Explainer.explain`.
        generation: how the answer is generated. None: as the call of `explain_many` says.

    Example:
        >>> from dcam_fast import sample_image
        >>> ExplainRequest(sample_image(), targets=("ring",))
        ExplainRequest(image=uint8[128, 128, 3], prompt=None, answer=None, targets=('ring',), generation=None)
    """

    image: ImageSource
    prompt: str | None = None
    answer: AnswerLike | None = None
    targets: TargetsLike = "content"
    generation: Generation | None = None


@dataclass(frozen=True, eq=False)
class RequestError:
    """The result of a request that cannot be explained.

    Attributes:
        request: as it was given.
        error: what `Explainer.explain` raises for it.
    """

    request: ExplainRequest
    error: Exception


def explained_in_order(
    requests: Iterable[ExplainRequest],
    prepare: Callable[[ExplainRequest], Session],
    adapter: Adapter[Any],
    resources: Resources,
) -> Generator[Explanation | RequestError]:
    """See `Explainer.explain_many`.

    Args:
        requests: to explain.
        prepare: checks and encodes one.
        adapter: of the model.
        resources: of the passes.
    """
    concurrent = adapter.small and not resources.compile
    with threads_of(adapter):
        threads = workers() if concurrent else 1

    stop = threading.Event()

    def explain(group: list[ExplainRequest]) -> list[Explanation | RequestError]:
        with interruptible(cancel=stop), computing(adapter, resources):
            return _explained(group, prepare, adapter)

    groups = grouped(requests, TOGETHER if concurrent else 1)
    with contextlib.closing(run_in_order(explain, groups, threads)) as results:
        try:
            for group in results:
                yield from group
        finally:
            stop.set()  # what is in work ends at its next step


def _explained(
    group: list[ExplainRequest], prepare: Callable[[ExplainRequest], Session], adapter: Adapter[Any]
) -> list[Explanation | RequestError]:
    sessions = [_attempt(prepare, request) for request in group]
    results: list[Explanation | RequestError] = []
    for request, session, answer in zip(group, sessions, _answers(sessions, adapter), strict=True):
        if isinstance(session, Exception):
            result: Explanation | Exception = session
        else:
            result = answer if isinstance(answer, Exception) else _attempt(session.explained, *answer)
        results.append(RequestError(request, result) if isinstance(result, Exception) else result)
    return results


def _answers(
    sessions: list[Session | Exception], adapter: Adapter[Any]
) -> list[tuple[Trajectory, dict[str, float]] | Exception]:
    """The answer of each session with the seconds it took. The family may generate those of equal options together."""
    answers: dict[int, tuple[Trajectory, dict[str, float]] | Exception] = {}
    together: dict[Generation, list[tuple[int, Session]]] = {}
    for index, session in enumerate(sessions):
        if isinstance(session, Exception):
            answers[index] = session
        elif session.given is not None:
            answers[index] = session.given, {"generate": 0.0}
        else:
            together.setdefault(session.generation, []).append((index, session))
    for generation, members in together.items():
        started = time.perf_counter()
        found = _attempt(adapter.generate_many, [session.inputs for _, session in members], generation)
        seconds = {"generate": (time.perf_counter() - started) / len(members)}
        for number, (index, _) in enumerate(members):
            answers[index] = found if isinstance(found, Exception) else (found[number], dict(seconds))
    return [answers[index] for index in range(len(sessions))]


def _attempt(function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R | Exception:
    """The result of a call, or the error that it raises: an error is the result of its request."""
    try:
        return function(*args, **kwargs)
    except Exception as error:
        return error


def grouped(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Lazily read items, `size` at a time. An exception of their iterator is raised after the items before it.

    >>> list(grouped("abcde", 2))
    [['a', 'b'], ['c', 'd'], ['e']]
    """
    group: list[T] = []
    try:
        for item in items:
            group.append(item)
            if len(group) == size:
                yield group
                group = []
    except Exception:
        if group:
            yield group
        raise
    if group:
        yield group


def run_in_order(function: Callable[[T], R], items: Iterable[T], threads: int) -> Generator[R]:
    """The results of `function` for lazily read items, in their order.

    At most `threads + 1` items are begun and not yet handed out, so memory does not grow with their number. An
    exception of the items' iterator is raised after the results of the items before it. With one thread, the caller's
    runs everything and reads nothing ahead. After closing the iterator no further item is begun.
    """
    if threads == 1:
        yield from map(function, items)
        return
    source, pending = iter(items), deque[Future[R]]()
    ended: Exception | None = None
    with contextlib.ExitStack() as stack:
        pool = stack.enter_context(new_pool(threads))
        stack.callback(lambda: [future.cancel() for future in pending])
        while True:
            while ended is None and len(pending) <= threads:
                try:
                    item = next(source)
                except Exception as error:  # StopIteration too; any other is raised below, in its turn
                    ended = error
                else:
                    pending.append(pool.submit(function, item))
            if not pending:
                break
            yield pending.popleft().result()
    if ended is not None and not isinstance(ended, StopIteration):
        raise ended
