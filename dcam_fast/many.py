"""Explanations of many requests: what is asked, and running it in order on several threads."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TypeVar

from dcam_fast.attribution.threads import new_pool
from dcam_fast.images import ImageSource
from dcam_fast.models.generation import Generation
from dcam_fast.session import TargetsLike

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True, eq=False)
class ExplainRequest:
    """What `Explainer.explain_many` explains: an image with a prompt, and the words that get maps.

    Nothing is checked before its turn. What is wrong with a request becomes its `RequestError`.

    Attributes:
        image: as in `Explainer.explain`. A path is read when its turn comes.
        prompt: as in `Explainer.explain`.
        targets: as in `Explainer.explain`.
        generation: how the answer is generated. None: as the call of `explain_many` says.

    Example:
        >>> from dcam_fast import sample_image
        >>> ExplainRequest(sample_image(), "describe the image", targets=["ring"]).targets
        ['ring']
    """

    image: ImageSource
    prompt: str | None = None
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


def grouped(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Lazily read items, `size` at a time. An exception of their iterator is raised after the items before it.

    >>> list(grouped("abcde", 2))
    [['a', 'b'], ['c', 'd'], ['e']]
    """
    source, group = iter(items), []
    try:
        for item in source:
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


def run_in_order(function: Callable[[T], R], items: Iterable[T], threads: int) -> Iterator[R]:
    """The results of `function` for lazily read items, in their order.

    At most `threads + 1` items are begun and not yet handed out, so memory does not grow with their number. An
    exception of the items' iterator is raised after the results of the items before it. With one thread, the caller's
    runs everything and reads nothing ahead. After closing the iterator no further item is begun.
    """
    if threads == 1:
        yield from map(function, items)
        return
    source, pending = iter(items), deque[Future[R]]()
    raised: Exception | None = None
    with contextlib.ExitStack() as stack:
        pool = stack.enter_context(new_pool(threads))
        stack.callback(lambda: [future.cancel() for future in pending])
        while True:
            while raised is None and len(pending) <= threads:
                try:
                    item = next(source)
                except Exception as error:  # StopIteration too; any other is raised below, in its turn
                    raised = error
                    break
                pending.append(pool.submit(function, item))
            if not pending:
                break
            yield pending.popleft().result()
    if not isinstance(raised, StopIteration):
        raise raised
