"""`Worker`: the thread that owns the model, and the queue before it."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
import threading
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from dcam_fast.interruption import interruptible
from dcam_fast.service.errors import ServiceError, again, as_service_error, busy, stopping, too_late
from dcam_fast.service.metrics import Metrics

log = logging.getLogger(__name__)

RECENT: Final = 0.2  # weight of the last job in the mean duration


@dataclass(frozen=True)
class Finished:
    """The last event of a job that succeeded."""

    result: object


class Job:
    """Work for the worker's thread, and its events on their way to the event loop.

    The work is interrupted at its next step once the deadline has passed or the job is cancelled.

    Attributes:
        work: does it, in the worker's thread, and may call `emit` of this job.
        deadline: by the worker's clock, or None.
        cancel: set when nobody waits for the job any more.
    """

    def __init__(
        self,
        work: Callable[[Job], object],
        deadline: float | None,
        clock: Callable[[], float],
        withdraw: Callable[[Job], None],
    ) -> None:
        self.work = work
        self.deadline = deadline
        self.cancel = threading.Event()
        self._withdraw = withdraw
        self.submitted = clock()
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[object] = asyncio.Queue()
        self._context = contextvars.copy_context()

    def emit(self, event: object) -> None:
        """Sends an event to the one who waits for the job."""
        self._loop.call_soon_threadsafe(self._events.put_nowait, event)

    def seconds_so_far(self) -> float:
        """Since the job was submitted."""
        return self._clock() - self.submitted

    def seconds_left(self) -> float | None:
        """Until the deadline; None without one."""
        return None if self.deadline is None else self.deadline - self._clock()

    def leave(self) -> None:
        """To be called when nobody waits for the job any more. If it waits itself, it gives up its image at once."""
        self.cancel.set()
        self._withdraw(self)

    def run(self) -> bool:
        """Does the work in the context of the request and emits how it ended; returns whether it succeeded."""
        return self._context.run(self._run)

    def _run(self) -> bool:
        try:
            left = self.seconds_left()
            if left is not None and left <= 0:
                raise too_late()
            with interruptible(left, self.cancel, "service"):
                last: object = Finished(self.work(self))
        except Exception as error:
            last = as_service_error(error)
            if last.status == 500:
                log.error("worker: a job failed", exc_info=error)
        self.emit(last)
        return isinstance(last, Finished)

    async def result(self) -> Any:
        """What the work returned. Raises as `events`."""
        async for event in self.events():
            if isinstance(event, Finished):
                return event.result
        raise AssertionError("a job ends with Finished or an error")

    async def events(self) -> AsyncGenerator[object, None]:
        """The events, with `Finished` last. To stop listening cancels the job.

        Raises:
            ServiceError: if the job failed, or its deadline passed.
        """
        try:
            while True:
                try:
                    event = await asyncio.wait_for(self._events.get(), self.seconds_left())
                except TimeoutError:
                    raise too_late() from None
                if isinstance(event, ServiceError):
                    raise event
                yield event
                if isinstance(event, Finished):
                    return
        finally:
            self.leave()


@dataclass
class Worker:
    """One thread that runs jobs one after the other, and the places in the queue before it.

    A request takes a place before its body is read, so that a full queue costs nothing.

    Attributes:
        places: requests that may have a place at once.
        metrics: where it counts.
        clock: seconds, monotonic.
    """

    places: int
    metrics: Metrics
    clock: Callable[[], float] = time.monotonic
    _waiting: deque[Job] = field(default_factory=deque)
    _running: Job | None = None
    _changed: threading.Condition = field(default_factory=threading.Condition)
    _closed: bool = False
    _cancelled: bool = False
    _taken: int = 0
    _mean: float = 0.0
    _draining: bool = False
    _thread: threading.Thread | None = None

    def start(self) -> None:
        """Starts the thread."""
        self._thread = threading.Thread(target=self._work, name="dcam-worker", daemon=True)
        self._thread.start()

    @property
    def is_ready(self) -> bool:
        """Whether new jobs are taken."""
        return self._thread is not None and self._thread.is_alive() and not self._draining

    @property
    def is_draining(self) -> bool:
        """Whether the service is about to end."""
        return self._draining

    def drain(self) -> None:
        """Takes no new requests from now on."""
        self._draining = True

    def cancel_all(self) -> None:
        """Answers every request that waits or runs with an error, and stops what runs at its next step.

        No job is taken from now on.
        """
        with self._changed:
            self._cancelled = True
            jobs = [*self._waiting, *([self._running] if self._running else [])]
            self._waiting.clear()
        for job in jobs:
            job.cancel.set()
            job.emit(stopping())

    def close(self) -> None:
        """Stops every job, and the thread after the current one has ended."""
        self.drain()
        self.cancel_all()
        with self._changed:
            self._closed = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join()

    @contextlib.contextmanager
    def place(self, deadline: float | None = None) -> Iterator[None]:
        """A place in the queue while the context is open.

        Args:
            deadline: of the request, by `clock`.

        Raises:
            ServiceError: 429 if there is no free place, 503 if the deadline cannot be met or the worker ends.
        """
        if not self.is_ready:
            raise stopping()
        if self._taken >= self.places:
            raise busy(self._mean)
        self.check_deadline(deadline, self._taken, 1)
        self._taken += 1
        self.metrics.queue_length.set(self._taken)
        try:
            yield
        finally:
            self._taken -= 1
            self.metrics.queue_length.set(self._taken)

    def check_deadline(self, deadline: float | None, before: int, own: int) -> None:
        """Raises ServiceError (503) if a deadline passes before a request could be answered.

        Args:
            deadline: by `clock`.
            before: jobs before the request's own, each of the mean duration.
            own: jobs of that duration that it takes itself; 0 if it takes what time is left.
        """
        if deadline is None:
            return
        expected, left = (before + own) * self._mean, deadline - self.clock()
        if left <= expected:
            message = f"service: deadline must be more than {expected:.3g} s with this queue, got {left:.3g} s"
            raise ServiceError(503, "deadline_too_short", message, None, again(expected))

    def check_budget(self, budget_ms: float | None) -> None:
        """Raises ServiceError (503) if a budget is spent before the request of the last place comes to its turn."""
        if budget_ms is not None:
            self.check_deadline(self.clock() + budget_ms / 1000, self._taken - 1, 0)

    def submit(self, work: Callable[[Job], object], deadline: float | None = None) -> Job:
        """A job that waits for the thread; `deadline` is by `clock`.

        Raises:
            ServiceError: 503 after `cancel_all`.
        """
        job = Job(work, deadline, self.clock, self._withdraw)
        with self._changed:
            if self._cancelled:
                raise stopping()
            self._waiting.append(job)
            self._changed.notify()
        return job

    def _withdraw(self, job: Job) -> None:
        with self._changed, contextlib.suppress(ValueError):  # it runs, or has ended
            self._waiting.remove(job)

    def _next(self) -> Job | None:
        """The next job, once there is one; None if the worker is closed and no job waits."""
        with self._changed:
            self._running = None
            self._changed.wait_for(lambda: self._waiting or self._closed)
            self._running = self._waiting.popleft() if self._waiting else None
            return self._running

    def _work(self) -> None:
        while (job := self._next()) is not None:
            started = self.clock()
            self.metrics.queue_seconds.observe(started - job.submitted)
            succeeded = job.run()
            took = self.clock() - started
            if succeeded:
                self._mean = took if not self._mean else (1 - RECENT) * self._mean + RECENT * took
