"""Streaming: the same answer and maps as `explain`, without leaks; also in loops and threads."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from dcam_fast import Explainer, scenes
from dcam_fast.attribution import METHODS, GradientCAM
from dcam_fast.models.adapter import OPEN, AdapterError, Trajectory
from dcam_fast.models.generation import Generation
from dcam_fast.models.tiny.adapter import TinyAdapter
from dcam_fast.streaming import Step

PICTURE = scenes.sample_scene(np.random.default_rng(12), 96, 96, 2).image
COMMITTED = GradientCAM(state="committed")


@pytest.fixture(scope="module", params=["prefix", "joint"])
def explainer(request: pytest.FixtureRequest) -> Explainer:
    return Explainer.from_pretrained("tiny", attention=request.param)


@pytest.mark.parametrize(("steps", "block_length"), [(6, None), (12, 6), (36, 12)])
def test_stream_gives_the_answer_and_maps_of_explain(
    explainer: Explainer, steps: int, block_length: int | None
) -> None:
    stream = explainer.stream(PICTURE, generation=Generation(steps=steps, block_length=block_length))
    received = list(stream)
    streamed = stream.explanation("all")
    plain = explainer.explain(
        PICTURE, None, "all", method=COMMITTED, generation=Generation(steps=steps, block_length=block_length)
    )
    assert [step.index for step in received] == list(range(steps))
    assert streamed.answer == plain.answer
    assert streamed.tokens == plain.tokens
    torch.testing.assert_close(streamed.raw_maps, plain.raw_maps, rtol=0, atol=1e-5)
    torch.testing.assert_close(streamed.maps, plain.maps, rtol=0, atol=1e-4)
    for ours, theirs in zip(streamed.targets, plain.targets, strict=True):
        assert (ours.text, ours.positions) == (theirs.text, theirs.positions)
        assert ours.groundedness == pytest.approx(theirs.groundedness, abs=1e-3)
    apart = {"seconds"}
    assert streamed.provenance["state"] == "committed"
    assert {k: v for k, v in streamed.provenance.items() if k not in apart | {"method"}} == {
        k: v for k, v in plain.provenance.items() if k not in apart | {"method"}
    }


def test_repr_of_a_step_shows_shapes(explainer: Explainer) -> None:
    step = next(iter(explainer.stream(PICTURE, generation=Generation(steps=6))))
    assert repr(step).startswith("Step(index=0, text='")
    assert repr(step).endswith(f"maps={list(step.maps.shape)})")


def test_steps_hold_the_committed_tokens(explainer: Explainer) -> None:
    stream = explainer.stream(PICTURE, generation=Generation(steps=6))
    steps = list(stream)
    explanation = stream.explanation("all")
    written = [token for step in steps for token in step.tokens if token.position < len(explanation.tokens)]
    assert sorted(written, key=lambda token: token.position) == list(explanation.tokens)
    for step in steps:
        assert all(token.step == step.index for token in step.tokens)
        assert step.maps.shape == step.raw_maps.shape == (len(step.tokens), 16, 16)
        assert step.boxes.shape == (16, 16, 4)
        assert step.seconds.keys() == {"generate", "explain"}
    assert "_" in steps[0].text
    assert steps[-1].text == explanation.answer
    content = stream.explanation()
    assert len(content.targets) < len(explanation.targets)


def test_partial_trajectories(explainer: Explainer) -> None:
    adapter = explainer.adapter
    inputs = adapter.encode(PICTURE, adapter.default_prompt)
    finished = adapter.generate(inputs, Generation(6))
    for index, so_far in enumerate(adapter.denoise(inputs, Generation(6))):
        written = finished.steps <= index
        assert so_far.steps.equal(torch.where(written, finished.steps, OPEN))
        assert so_far.tokens.equal(torch.where(written, finished.tokens, adapter.mask_token))
    assert so_far.tokens.equal(finished.tokens)
    assert so_far.length == finished.length


def test_stream_can_be_closed_early(explainer: Explainer) -> None:
    generating: list[bool] = []

    class Watched(TinyAdapter):
        def denoise(self, *args: Any, **kwargs: Any) -> Iterator[Trajectory]:
            generating.append(True)
            try:
                yield from super().denoise(*args, **kwargs)
            finally:
                generating.pop()

    stream = Explainer(Watched()).stream(PICTURE)
    for step in stream:
        if step.index == 2:
            break
    assert generating
    with pytest.raises(
        RuntimeError, match=r"Stream.explanation: stream must be at its end, got a stream with steps left"
    ):
        stream.explanation()
    stream.close()
    assert not generating
    assert list(stream) == []
    assert torch.is_grad_enabled()
    with pytest.raises(RuntimeError, match=r"Stream.explanation: stream must be at its end"):
        stream.explanation()
    abandoned = Explainer(Watched()).stream(PICTURE)
    next(abandoned)
    del abandoned
    gc.collect()
    assert not generating


def test_grad_mode_between_steps_is_the_callers(explainer: Explainer) -> None:
    stream = explainer.stream(PICTURE, generation=Generation(steps=3))
    for step in stream:
        assert torch.is_grad_enabled()
        assert not step.maps.requires_grad
    with torch.no_grad():
        assert len(list(explainer.stream(PICTURE, generation=Generation(steps=3)))) == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method": "tam"}, "stream: method must be a GradientCAM or the name of one, got 'tam'"),
        ({"method": "best"}, "explain: method must be one of"),
        ({"prompt": "what is the zebra ?"}, "tiny: prompt must be made of the words"),
    ],
)
def test_invalid_arguments_raise_before_the_first_step(
    explainer: Explainer, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        explainer.stream(PICTURE, **arguments)


def test_models_without_stepping_are_rejected() -> None:
    class Whole(TinyAdapter):
        denoise = TinyAdapter.__mro__[1].denoise  # type: ignore[assignment, misc]

    with pytest.raises(AdapterError, match="stream: model must be one that generates step by step, got tiny"):
        Explainer(Whole()).stream(PICTURE)


def test_an_error_in_a_step_leaves_no_memory(explainer: Explainer) -> None:
    calls = 0

    def objective(logits: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        if calls == 5:
            raise RuntimeError("in the middle")
        return logits[3]

    stream = explainer.stream(PICTURE, method=GradientCAM(objective=objective))
    with pytest.raises(RuntimeError, match="in the middle"):
        list(stream)
    assert list(stream) == []
    assert torch.is_grad_enabled()
    alive = live_bytes()
    calls = 0
    with pytest.raises(RuntimeError, match="in the middle"):
        explainer.explain(PICTURE, method=GradientCAM(objective=objective))
    assert live_bytes() <= alive


def live_bytes() -> int:
    """Bytes of all tensors that anything still refers to."""
    gc.collect()
    tensors = [thing for thing in gc.get_objects() if type(thing) in (Tensor, torch.nn.Parameter)]
    # a compiler's have no memory, and sparse ones, which other tests may have left, have no storage
    real = [t for t in tensors if t.layout is torch.strided and not torch._is_functional_tensor(t)]
    storages = {tensor.untyped_storage()._cdata: tensor.untyped_storage().nbytes() for tensor in real}
    return sum(storages.values())


def test_many_explanations_do_not_leak_memory(explainer: Explainer) -> None:
    counts = []
    for index in range(30):
        explainer.explain(PICTURE, targets=[1], generation=Generation(steps=4))
        for _ in explainer.stream(PICTURE, generation=Generation(steps=2)):
            break
        if index in (4, 29):
            counts.append((live_bytes(), threading.active_count(), len(gc.get_objects())))
    assert counts[1][:2] == counts[0][:2]
    assert counts[1][2] - counts[0][2] < 200


def test_concurrent_threads_get_the_same_results() -> None:
    """Two explainers in two threads, one of them short of memory and both differentiating, give what each gives
    alone."""
    explainers = [
        Explainer.from_pretrained("tiny", attention="prefix"),
        Explainer.from_pretrained("tiny", attention="joint", max_memory=9_000_000, deterministic=True),
    ]
    alone = [explainer.explain(PICTURE, generation=Generation(steps=6)) for explainer in explainers]
    wrong: list[object] = []

    def work(which: int) -> None:
        for _ in range(4):
            got = explainers[which].explain(PICTURE, generation=Generation(steps=6))
            if got.answer != alone[which].answer or not torch.allclose(got.maps, alone[which].maps, atol=1e-4):
                wrong.append(got)
        if not torch.is_grad_enabled():
            wrong.append("grad mode")

    threads = [threading.Thread(target=work, args=(which,)) for which in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert not torch.are_deterministic_algorithms_enabled()


def test_every_gradient_cam_streams(explainer: Explainer) -> None:
    for method in METHODS.values():
        if isinstance(method, GradientCAM):
            first: Step = next(
                explainer.stream(PICTURE, method=replace(method, target_layers=(1,)), generation=Generation(steps=4))
            )
            assert bool(first.maps.isfinite().all())
