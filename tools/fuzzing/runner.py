"""Runs targets call by call."""

from __future__ import annotations

import argparse
import importlib.util
import time
import traceback
import zlib
from collections.abc import Callable

import numpy as np
import torch

from . import ops

Target = Callable[[np.random.Generator], None]


def targets() -> dict[str, Target]:
    """Every target by name; those of the readers if this checkout has them."""
    found: dict[str, Target] = dict(ops.TARGETS)
    if importlib.util.find_spec("fuzzing.readers") is not None:
        from . import readers

        found |= readers.TARGETS
    return found


def generator(name: str, seed: int, call: int) -> np.random.Generator:
    """The randomness of one call."""
    return np.random.default_rng([seed, zlib.crc32(name.encode()), call])


def run(name: str, target: Target, seed: int, calls: range, deadline: float) -> tuple[int, int]:
    """The numbers of calls and of failures. Each failure is printed, and ten end the target."""
    done = failed = 0
    for call in calls:
        if time.monotonic() > deadline or failed == 10:
            break
        try:
            target(generator(name, seed, call))
        except Exception as error:  # any exception is a finding
            failed += 1
            where = traceback.extract_tb(error.__traceback__)[-1]
            print(f"{name}: call {call} of seed {seed}: {type(error).__name__}: {error}", flush=True)
            print(f"    at {where.filename}:{where.lineno}", flush=True)
            print(f"    again: tools/fuzz --target {name} --seed {seed} --call {call}", flush=True)
        done += 1
    return done, failed


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns 1 if any call disagreed."""
    every = targets()
    parser = argparse.ArgumentParser(prog="tools/fuzz", description="Random calls against the reference.")
    parser.add_argument("--target", default="all", choices=["all", *every])
    parser.add_argument("--calls", type=int, default=1000, help="calls of each target (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--call", type=int, help="make this one call only")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="at most this long for each target")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    chosen = every if options.target == "all" else {options.target: every[options.target]}
    calls = range(options.calls) if options.call is None else range(options.call, options.call + 1)
    failures = 0
    for name, target in chosen.items():
        ops.UNDECIDED.clear()
        done, failed = run(name, target, options.seed, calls, time.monotonic() + 60 * options.minutes)
        undecided = f", {ops.UNDECIDED[name]} undecided by a rounding" if ops.UNDECIDED[name] else ""
        print(f"{name}: {done} calls, {failed} failed{undecided}", flush=True)
        failures += failed
    return int(failures > 0)
