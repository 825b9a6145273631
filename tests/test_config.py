"""RefineConfig: valid and invalid fields, and that every valid config gives maps in 0..1."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dcam_fast import ops
from dcam_fast.benchmarks.edge_maps import KINDS, edge_map
from dcam_fast.benchmarks.stability import tolerance
from dcam_fast.config import KERNEL_SIZES, PROFILES, RELEASED, RefineConfig
from dcam_fast.ops import _backends, reference


def through_json(config: RefineConfig) -> RefineConfig:
    return RefineConfig(**json.loads(json.dumps(dataclasses.asdict(config))))


@pytest.mark.parametrize("config", PROFILES.values(), ids=PROFILES)
def test_json(config):
    again = through_json(config)
    assert again == config
    assert hash(again) == hash(config)
    assert again.packed == config.packed
    assert isinstance(again.gating_percentiles, tuple)


def test_numbers_of_numpy():
    config = RefineConfig(kernel_size=np.int64(5), c_rep=np.float32(0.25), step_ratio=1)
    assert config == RefineConfig(kernel_size=5, c_rep=0.25, step_ratio=1.0)
    assert through_json(config) == config
    assert type(config.kernel_size) is int
    assert type(config.step_ratio) is float


NUMBERS = [field.name for field in dataclasses.fields(RefineConfig) if isinstance(field.default, float)]
SWITCHES = [field.name for field in dataclasses.fields(RefineConfig) if isinstance(field.default, bool)]
TUPLES = ("gating_percentiles", "attenuation_weights")
NAN, INF = float("nan"), float("inf")
WRONG = [
    *((name, value) for name in NUMBERS for value in ("0.5", None, True, NAN, INF, -INF, -1, [0.5], 1j, 10**400)),
    *((name, value) for name in SWITCHES for value in (None, 1, 0, "true", 1.0, [])),
    *((name, value) for name in TUPLES for value in (None, 1, "abcd", [1, 2, 3], [1, 2, 3, 4, 5], {1, 2, 3, 4})),
    *((name, [50, 50, 50, value]) for name in TUPLES for value in (None, "50", True, NAN, INF, -1, 1e4)),
    *(("kernel_size", value) for value in (4, 1, 13, 3.0, 3.5, "3", True, [3], NAN)),
    *(("guide_radius", value) for value in (0, 9, 4.0, 2.5, "4", True, None, NAN)),
    *((name, value) for name in ("denoise", "size") for value in (None, 1, "mean", ["none"], np.zeros(2))),
    *((name, 1.5) for name in ("alpha_max", "keep_range", "c_rep", "c_high", "attenuation_floor")),
    ("smoothing_sigma", 0),
    ("smoothing_sigma", 5.1),
    ("gating_sigma", 5.1),
    ("guide_epsilon", 1e-6),
    ("guide_epsilon", 1e300),
    ("step_ratio", 0),
]


@pytest.mark.parametrize(("name", "value"), WRONG, ids=[f"{name}-{value!r:.20}" for name, value in WRONG])
def test_refused(name, value):
    with pytest.raises(ValueError, match=f"^RefineConfig: {name} must be .*, got "):
        RefineConfig(**{name: value})


def test_numbers_are_in_the_order_of_the_extension():
    if _backends.native is None:
        pytest.skip("the extension is not built")
    assert _backends.native.refine_settings == tuple(RELEASED.numbers())


@pytest.mark.parametrize("config", PROFILES.values(), ids=PROFILES)
def test_numbers_name_the_fields(config):
    numbers = config.numbers()
    assert tuple(numbers.values()) == config.packed
    assert numbers["percentile_else"] == config.gating_percentiles[3]
    assert numbers["weight_max"] == config.attenuation_weights[3]
    assert numbers["keep_range"] == config.keep_range


@pytest.mark.parametrize("packed", [[], [0.0] * 25, [NAN] * 25, [9.0, *RELEASED.packed[1:]]])
def test_from_packed_refuses(packed):
    with pytest.raises(ValueError, match=" must be "):
        RefineConfig.from_packed(packed)


@settings(derandomize=True, deadline=None, max_examples=150)
@given(
    seed=st.integers(0, 2**31),
    kind=st.sampled_from(sorted(KINDS)),
    repetition=st.floats(0, 1),
    config=st.builds(
        RefineConfig,
        denoise=st.sampled_from(("none", "rank", "gaussian")),
        kernel_size=st.sampled_from((None, *KERNEL_SIZES)),
        step_ratio=st.floats(0, exclude_min=True, allow_infinity=False),
        size=st.sampled_from(("grid", "image")),
        smoothing_sigma=st.floats(0, 5, exclude_min=True),
        gating=st.booleans(),
        gating_spread=st.floats(0, 3e38),
        gating_bright=st.floats(0, 3e38),
        gating_dim=st.floats(0, 3e38),
        gating_percentiles=st.tuples(*[st.floats(0, 100)] * 4),
        gating_sigma=st.floats(0, 5),
        attenuation=st.booleans(),
        attenuation_weights=st.tuples(*[st.floats(0, 1000)] * 4),
        attenuation_floor=st.floats(0, 1),
        debiasing=st.booleans(),
        c_rep=st.floats(0, 1),
        c_high=st.floats(0, 1),
        alpha_max=st.floats(0, 1),
        keep_range=st.floats(0, 1),
    ),
)
def test_every_config_gives_maps(seed, kind, repetition, config):
    assert through_json(config) == config
    map = torch.from_numpy(edge_map(kind, np.random.default_rng(seed), 9, 11))
    options = {"repetition": repetition, "image_side": 700.0}
    expected = reference.refine(map[None].double(), config, **options)
    allowed = tolerance(map.double(), config, **options)
    for got in (ops.refine(map[None], config, **options), reference.refine(map[None], config, **options)):
        assert got.isfinite().all()
        assert got.min() >= 0
        assert got.max() <= 1 + 1e-6
        assert allowed == math.inf or (got.double() - expected).abs().max() <= allowed
