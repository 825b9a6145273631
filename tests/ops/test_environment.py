"""What is said of this installation, and what still works where a part of it is missing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from types import SimpleNamespace

import pytest
import torch

import dcam_fast
from dcam_fast.config import DEFAULT, PAPER, PROFILES, RELEASED, RefineConfig
from dcam_fast.ops import _backends


def run(code: str, **variables: str) -> dict:
    """The JSON that `code` prints in a separate process."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONSAFEPATH": "1"} | variables,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


WITHOUT_EXTENSION = """
    import json, sys, warnings
    import numpy as np

    class Block:
        def find_spec(self, name, path=None, target=None):
            if name == "dcam_fast._C":
                raise ImportError("blocked for this test")
    sys.meta_path.insert(0, Block())
"""


def test_without_extension():
    found = run(
        WITHOUT_EXTENSION
        + """
    with warnings.catch_warnings(record=True) as notices:
        warnings.simplefilter("always")
        import torch, dcam_fast
        from dcam_fast import ops
        before = len(notices)
        A, G = torch.rand(12, 8), torch.rand(2, 12, 8)
        maps = ops.pool(A, G).reshape(2, 3, 4)
        ops.refine(maps, out=maps)
        array = ops.refine_array(maps[0].numpy(), dcam_fast.RELEASED)
        ops.rank_filter_array(maps[0].numpy(), 3)
        flags = torch.ones(2, dtype=torch.int32)
        ops.pool_out(torch.empty(2, 12), flags, A, G)
        compiled = torch.compile(lambda m: ops.refine(m) + 1, backend="aot_eager", fullgraph=True)(maps)
    errors = []
    for call in (
        lambda: ops.refine(maps, backend="cpu"),
        lambda: ops.refine_array(np.zeros((2, 2))),
        lambda: ops.refine_array(np.full((2, 2), np.nan, np.float32)),
    ):
        try:
            call()
        except (RuntimeError, ValueError) as error:
            errors.append(str(error))
    env = dcam_fast.env()
    print(json.dumps({
        "before": before,
        "notices": [str(n.message) for n in notices if "dcam_fast" in str(n.message)],
        "errors": errors,
        "array": [str(array.dtype), list(array.shape)],
        "flags": flags.tolist(),
        "backends": env.backends,
        "text": str(env),
    }))
    """
    )
    assert found["before"] == 0
    assert found["notices"] == [
        "dcam_fast: the extension dcam_fast._C is not available (blocked for this test); "
        "the ops run on the slow reference, in plain PyTorch"
    ]
    assert found["errors"] == [
        "refine: backend must be one that can run here, got 'cpu': "
        "the extension dcam_fast._C is not available (blocked for this test); reference can",
        "refine_array: map must be float32 [h, w] with h, w > 0, got float64 (2, 2)",
        "refine_array: map must be finite, got NaN or Inf",
    ]
    assert found["array"] == ["float32", [3, 4]]
    assert found["flags"] == [0, 0]
    assert found["backends"]["reference"] is None
    assert "blocked for this test" in found["backends"]["cpu"]
    assert "not built: blocked for this test" in found["text"]


def test_import_is_light():
    loaded = run(
        """
        import json, sys, dcam_fast
        dcam_fast.RELEASED, dcam_fast.profile("paper")
        print(json.dumps([name for name in ("torch", "numpy", "transformers", "triton") if name in sys.modules]))
        """
    )
    assert loaded == []


@pytest.mark.parametrize(
    "forced",
    [
        "reference",
        pytest.param(
            "cpu",
            marks=pytest.mark.skipif(_backends.native is None, reason="needs the extension, which is not built here"),
        ),
    ],
)
def test_forced_backend(forced):
    found = run(
        """
        import json, warnings, torch
        warnings.simplefilter("error")
        import dcam_fast
        from dcam_fast import ops
        from torch.utils._python_dispatch import TorchDispatchMode
        called = []

        class Record(TorchDispatchMode):
            def __torch_dispatch__(self, op, types, args=(), kwargs=None):
                called.append(op.namespace)
                return op(*args, **(kwargs or {}))

        maps = torch.rand(1, 9, 9)
        with Record():
            refined = ops.refine(maps, dcam_fast.RELEASED)
        array = torch.from_numpy(ops.refine_array(maps[0].numpy(), dcam_fast.RELEASED))
        print(json.dumps([
            dcam_fast.env().forced_backend,
            [name for name in called if name.startswith("dcam_fast")],
            torch.equal(array, refined[0]),
        ]))
        """,
        DCAM_BACKEND=forced,
    )
    assert found == [forced, ["dcam_fast_reference" if forced == "reference" else "dcam_fast"], True]


def test_forced_backend_unknown():
    found = run(
        """
        import json, torch
        from dcam_fast import ops
        try:
            ops.rank_filter(torch.rand(1, 3, 3), 3)
        except ValueError as error:
            print(json.dumps(str(error)))
        """,
        DCAM_BACKEND="opencl",
    )
    assert found == f"rank_filter: backend must be one of {', '.join(_backends.BACKENDS)}, got 'opencl'"


def test_triton_backend():
    """Importing the ops does not import Triton; the backend says what it lacks; its interpreter serves the CPU."""
    code = """
        import json, sys, torch
        from dcam_fast import env, ops
        loaded = "triton" in sys.modules
        error = ""
        try:
            ops.rank_filter(torch.rand(1, 3, 3), 3, backend="triton")
        except RuntimeError as refusal:
            error = str(refusal)
        print(json.dumps([loaded, env().backends["triton"], error]))
        """
    path = os.pathsep.join(sys.path)
    loaded, reason, error = run(code, CUDA_VISIBLE_DEVICES="", TRITON_INTERPRET="0", PYTHONPATH=path)
    assert not loaded
    assert reason is not None
    assert error.startswith("rank_filter: backend must be one that can run here, got 'triton': " + reason)


@pytest.mark.parametrize(
    "problem", [None, "no kernel image is available for execution on the device", "CUDA driver version is insufficient"]
)
def test_a_gpu_that_the_kernels_cannot_run_on(monkeypatch, problem):
    """A GPU older than the kernels, or a driver older than their runtime: torch reports a GPU, and CUDA the problem."""
    built = SimpleNamespace(cuda_archs="80 90a", cuda_unavailable_reason=lambda: problem)
    monkeypatch.setattr(_backends, "native", built)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    reason = _backends._find_cuda_problem.__wrapped__()
    if problem is None:
        assert reason is None
    else:
        assert reason.endswith(f"cannot run on this GPU: {problem}")


def test_env():
    env = dcam_fast.env()
    assert env.versions["torch"] == torch.__version__ or torch.__version__.startswith(env.versions["torch"])
    assert env.backends["reference"] is None
    assert env.devices[0] == "cpu"
    assert env.threads == torch.get_num_threads()
    assert (env.extension is None) == (_backends.native is None) == (env.cpu_kernels is None)
    text = str(env)
    for word in ("versions", "extension", "backend cpu", "backend reference", "threads"):
        assert word in text
    with pytest.raises(AttributeError):
        env.threads = 3


def test_public_names():
    for name in ("RefineConfig", "RELEASED", "PAPER", "DEFAULT", "profile", "env", "Environment", "ops"):
        assert getattr(dcam_fast, name) is not None
        assert name in dir(dcam_fast)
    with pytest.raises(AttributeError, match="module 'dcam_fast' has no attribute 'nothing'"):
        dcam_fast.nothing  # noqa: B018


@pytest.mark.parametrize("config", [*PROFILES.values(), RefineConfig(kernel_size=7, denoise="gaussian")])
def test_packed(config):
    again = RefineConfig.from_packed(config.packed)
    assert again.packed == config.packed
    assert again.kernel_size == config.kernel_size
    assert again.gating is config.gating
    assert hash(config) == hash(RefineConfig(**{f: getattr(config, f) for f in config.__dataclass_fields__}))


def test_ablation():
    for config in (RELEASED, PAPER, DEFAULT):
        bare = config.ablation("baseline")
        assert (bare.denoise, bare.gating, bare.attenuation, bare.debiasing) == ("none", False, False, False)
        whole = config.ablation("all_methods")
        assert (whole.denoise, whole.gating, whole.attenuation, whole.debiasing) == (config.denoise, True, True, True)
    assert RELEASED.ablation("gaussian_only").debiasing
    assert not PAPER.ablation("gaussian_only").debiasing
    assert PAPER.ablation("debiasing_only").debiasing
    assert PAPER.needs_image_side
    assert not PAPER.ablation("background_only").needs_image_side
