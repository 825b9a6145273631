"""The service under load: throughput, latency, refusals and memory with 1 to 64 concurrent clients.

Run: `./run python -m dcam_fast.benchmarks.service --out benchmarks/results/DATE-service.json` (six minutes).
Each client asks for explanations of sample images, one after the other; a refused client asks again when told. First
the same explainer runs in a loop, without a service. Clients, service and probe share the machine.

JSON: the header of `results.header`; `worker`: explanations a second in the loop; `rows`, one per number of clients:
`clients`, `throughput` (explanations a second), `p50`, `p95`, `p99` (seconds from request to answer), `queue` (mean
seconds before the model), `refused`, `failed`, `health_p99` (seconds of `GET /health` meanwhile), `resident` (bytes).
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import http.client
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

import typer

from dcam_fast import Explainer
from dcam_fast.benchmarks.results import header, write_result
from dcam_fast.images import load_image

CLIENTS = (1, 4, 16, 64)
IMAGES = 8
PROBE_S = 0.02  # between two requests for /health


@dataclass(frozen=True)
class Row:
    """One number of clients; see the module's docstring."""

    clients: int
    throughput: float
    p50: float
    p95: float
    p99: float
    queue: float
    refused: int
    failed: int
    health_p99: float
    resident: int


@dataclass
class Load:
    """What the clients have seen.

    Attributes:
        seconds: of each answer.
        refused: answers with status 429.
        failed: any other answer but 200.
    """

    seconds: list[float] = field(default_factory=list)
    refused: int = 0
    failed: int = 0


def percentile(seconds: list[float], share: int) -> float:
    """A percentile, interpolated linearly; of one value that value."""
    return statistics.quantiles(seconds * 2 if len(seconds) == 1 else seconds, n=100, method="inclusive")[share - 1]


@contextlib.contextmanager
def service() -> Iterator[tuple[str, int]]:
    """The URL and the process id of a service of the embedded model, until the context ends."""
    command = [sys.executable, "-m", "dcam_fast", "serve", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().strip()
            if not url:
                raise RuntimeError(f"service: must start, got exit code {process.wait()}")
            yield url, process.pid
        finally:
            process.terminate()


def sample_images(url: str) -> list[bytes]:
    """The sample images of the service, once it is ready."""
    from urllib.request import urlopen

    while True:
        try:
            urlopen(f"{url}/ready").read()
            break
        except OSError:
            time.sleep(0.1)
    return [urlopen(f"{url}/v1/samples/{index}.png").read() for index in range(IMAGES)]


def worker_throughput(images: list[bytes], seconds: float) -> float:
    """Explanations a second in a loop, without a service."""
    import io

    from PIL import Image

    explainer = Explainer(Explainer.from_pretrained("tiny").adapter, encodings=IMAGES)
    pixels = [load_image(Image.open(io.BytesIO(image))) for image in images]
    explainer.explain(pixels[0])
    done, started = 0, time.perf_counter()
    while (took := time.perf_counter() - started) < seconds:
        explainer.explain(pixels[done % IMAGES])
        done += 1
    return done / took


async def run_client(client: Any, images: list[bytes], first: int, ends: float, load: Load) -> None:
    """Asks for explanations until `ends`."""
    number = first
    while time.perf_counter() < ends:
        started = time.perf_counter()
        answer = await client.post("/v1/explanations", files={"image": images[number % IMAGES]})
        number += 1
        if answer.status_code == 200:
            load.seconds.append(time.perf_counter() - started)
        elif answer.status_code == 429:
            load.refused += 1
            await asyncio.sleep(float(answer.headers["Retry-After"]))
        else:
            load.failed += 1


async def run_clients(url: str, images: list[bytes], clients: int, seconds: float) -> tuple[Load, float]:
    """What `clients` clients see in `seconds`, and how long it took until the last answer."""
    import httpx

    load = Load()
    limits = httpx.Limits(max_connections=clients)
    async with httpx.AsyncClient(base_url=url, timeout=None, limits=limits) as client:
        started = time.perf_counter()
        tasks = (run_client(client, images, first, started + seconds, load) for first in range(clients))
        await asyncio.gather(*tasks)
        return load, time.perf_counter() - started


@contextlib.contextmanager
def probing(url: str) -> Iterator[list[float]]:
    """Seconds of `GET /health`, again and again while the context is open."""
    seconds: list[float] = []
    ended = threading.Event()

    def probe() -> None:
        connection = http.client.HTTPConnection(urlsplit(url).netloc)
        while not (seconds and ended.wait(PROBE_S)):
            started = time.perf_counter()
            connection.request("GET", "/health")
            connection.getresponse().read()
            seconds.append(time.perf_counter() - started)
        connection.close()

    thread = threading.Thread(target=probe)
    thread.start()
    try:
        yield seconds
    finally:
        ended.set()
        thread.join()


def queue_totals(url: str) -> tuple[float, float]:
    """Seconds that requests waited for the model so far, and how many did."""
    from urllib.request import urlopen

    lines = urlopen(f"{url}/metrics").read().decode().splitlines()
    values = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    return float(values["dcam_queue_seconds_sum"]), float(values["dcam_queue_seconds_count"])


def resident(process: int) -> int:
    """Bytes of a process in memory."""
    status = Path(f"/proc/{process}/status").read_text()
    return 1024 * int(status.partition("VmRSS:")[2].split()[0])


def measure(url: str, process: int, images: list[bytes], clients: int, seconds: float) -> Row:
    """One row."""
    waited, jobs = queue_totals(url)
    with probing(url) as health:
        load, took = asyncio.run(run_clients(url, images, clients, seconds))
    waited_after, jobs_after = queue_totals(url)
    return Row(
        clients=clients,
        throughput=len(load.seconds) / took,
        p50=percentile(load.seconds, 50),
        p95=percentile(load.seconds, 95),
        p99=percentile(load.seconds, 99),
        queue=(waited_after - waited) / max(1.0, jobs_after - jobs),
        refused=load.refused,
        failed=load.failed,
        health_p99=percentile(health, 99),
        resident=resident(process),
    )


def main(
    seconds: Annotated[float, typer.Option(min=0.1, help="Seconds for each number of clients.")] = 60.0,
    out: Annotated[Path | None, typer.Option(help="JSON file to write.")] = None,
) -> None:
    """Measures, prints, and writes the JSON file."""
    head = header("cpu")
    rows = []
    with service() as (url, process):
        images = sample_images(url)
        worker = worker_throughput(images, seconds)
        typer.echo(f"in a loop: {worker:.2f} explanations/s")
        for clients in CLIENTS:
            row = measure(url, process, images, clients, seconds)
            rows.append(row)
            typer.echo(
                f"{clients} clients: {row.throughput:.2f}/s, p50 {row.p50:.2f} s, p99 {row.p99:.2f} s, "
                f"queue {row.queue:.2f} s, {row.refused} refused, {row.failed} failed, "
                f"/health p99 {row.health_p99 * 1e3:.1f} ms, {row.resident / 1e6:.0f} MB"
            )
    if out:
        write_result(out, head, worker=worker, rows=[dataclasses.asdict(row) for row in rows])


if __name__ == "__main__":
    typer.run(main)
