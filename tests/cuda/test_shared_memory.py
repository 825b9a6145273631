"""What the launchers ask of a device whose thread blocks have more or less shared memory, on the host emulator."""

from __future__ import annotations

import ctypes
from collections.abc import Callable

import pytest

from dcam_fast.config import PAPER, UNGUIDED

INVALID = 1  # cudaErrorInvalidValue
# Compute capability: bytes that a thread block may have.
SHARED = {"8.0": 163 * 1024, "8.6": 99 * 1024, "9.0": 227 * 1024}
MOST_CELLS = {"8.0": 16384, "8.6": 11406, "9.0": 16384}  # of a map that refine takes


@pytest.fixture
def dry(emulated: ctypes.CDLL):
    """The emulator, which notes launches and does not run them; `set_shared_limit` forgets what was asked for."""
    emulated.set_shared_limit(ctypes.c_int64(SHARED["9.0"]))
    emulated.set_dry(1)
    yield emulated
    emulated.set_other_thread(None)
    emulated.set_dry(0)
    emulated.set_shared_limit(ctypes.c_int64(SHARED["9.0"]))


def refine(library: ctypes.CDLL, height: int, width: int, config=UNGUIDED) -> int:
    packed = (ctypes.c_double * len(config.packed))(*config.packed)
    shape = [ctypes.c_int64(n) for n in (2, height, width)]
    return library.refine(*[None] * 6, *shape, ctypes.c_float(0), ctypes.c_float(1024), packed)


def guided_filter(library: ctypes.CDLL, height: int, width: int) -> int:
    shape = [ctypes.c_int64(n) for n in (2, height, width)]
    return library.guided_filter(None, None, None, *shape, 4, ctypes.c_float(1e-3))


@pytest.mark.parametrize(
    ("launch", "large", "small"), [(refine, (128, 128), (96, 96)), (guided_filter, (64, 64), (48, 48))]
)
def test_two_threads_with_maps_of_two_sizes(
    dry: ctypes.CDLL, launch: Callable[..., int], large: tuple[int, int], small: tuple[int, int]
) -> None:
    """One asks for the shared memory of its maps, the other asks and launches, then the first launches."""
    errors = []
    other = ctypes.CFUNCTYPE(None)(lambda: errors.append(launch(dry, *small)))
    dry.set_other_thread(other)
    errors.append(launch(dry, *large))
    assert errors == [0, 0]


@pytest.mark.parametrize("capability", SHARED)
def test_cells_of_a_map(dry: ctypes.CDLL, capability: str) -> None:
    """As many as the device has memory for are taken by every kernel, and not one more."""
    dry.set_shared_limit(ctypes.c_int64(SHARED[capability]))
    most = dry.refine_max_cells()
    assert most == MOST_CELLS[capability]
    for config in (UNGUIDED, PAPER):
        assert refine(dry, 1, most, config) == 0
        assert refine(dry, 1, most + 1, config) == INVALID
    assert dry.most_shared() == 8 * most


@pytest.mark.parametrize("capability", SHARED)
def test_guided_maps_of_any_size(dry: ctypes.CDLL, capability: str) -> None:
    """Beyond shared memory their fields lie in global memory."""
    dry.set_shared_limit(ctypes.c_int64(SHARED[capability]))
    fitting = SHARED[capability] // 32
    assert guided_filter(dry, 1, fitting) == 0
    assert dry.most_shared() == 32 * fitting
    assert guided_filter(dry, 1, fitting + 1) == 0
