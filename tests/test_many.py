"""Many requests: the results of `explain`, in order, read lazily, errors at their place. No test measures time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch

from dcam_fast import AdapterError, Explainer, ExplainRequest, Explanation, GradientCAM, RequestError, scenes
from dcam_fast.interruption import check_interruption
from dcam_fast.many import TOGETHER, grouped, run_in_order
from dcam_fast.models.generation import Generation
from dcam_fast.models.tiny.adapter import TinyAdapter

FEW = Generation(steps=4)
IMAGES = [scenes.sample_scene(np.random.default_rng(40 + index), 64, 64, 1).image for index in range(5)]
LIMIT = 60  # seconds after which a test that waits for a thread fails


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def explainer() -> Explainer:
    return Explainer.from_pretrained("tiny")


def requests_of(count: int) -> list[ExplainRequest]:
    return [ExplainRequest(IMAGES[index % len(IMAGES)], targets=[0, 1]) for index in range(count)]


def check_equal(result: Explanation | RequestError, plain: Explanation) -> None:
    assert isinstance(result, Explanation)
    assert result.tokens == plain.tokens
    assert result.targets == plain.targets
    assert torch.equal(result.raw_maps, plain.raw_maps)
    assert torch.equal(result.maps, plain.maps)
    assert result.provenance.keys() == plain.provenance.keys()


# ------------------------------------------------------------------------------------------------------------- results


def test_results_are_those_of_explain_for_the_same_answers(explainer: Explainer) -> None:
    """Answers are given: two that are generated together may differ where two tokens are nearly equally likely."""
    plain = [explainer.explain(image, targets=[0, 1], generation=FEW) for image in IMAGES]
    requests = [
        ExplainRequest(image, answer=[token.id for token in known.tokens], targets=[0, 1])
        for image, known in zip(IMAGES, plain, strict=True)
    ]
    for result, request in zip(explainer.explain_many(requests), requests, strict=True):
        check_equal(result, explainer.explain(request.image, answer=request.answer, targets=[0, 1]))


def test_one_thread_explains_too(explainer: Explainer) -> None:
    torch.set_num_threads(1)
    assert [type(result) for result in explainer.explain_many(requests_of(6), generation=FEW)] == [Explanation] * 6


def test_images_of_several_sizes_and_options_in_one_group(explainer: Explainer) -> None:
    wide = scenes.sample_scene(np.random.default_rng(3), 64, 96, 1).image
    requests = [
        ExplainRequest(IMAGES[0], targets=[0]),
        ExplainRequest(wide, targets=[0, 1]),
        ExplainRequest(IMAGES[0], targets=[2], generation=Generation(steps=2)),
        ExplainRequest(IMAGES[0], targets=[0], answer="a red ring"),
    ]
    first, second, third, fourth = explainer.explain_many(requests, generation=FEW, scores=False)
    assert isinstance(first, Explanation)
    assert isinstance(second, Explanation)
    assert isinstance(third, Explanation)
    assert isinstance(fourth, Explanation)
    assert (first.maps.shape, second.maps.shape) == ((1, 16, 16), (2, 11, 16))
    assert max(token.step or 0 for token in first.tokens) in (2, 3)
    assert {token.step for token in third.tokens} <= {0, 1}
    assert fourth.answer == "a red ring"
    assert [target.groundedness for target in second.targets] == [None, None]
    assert [result.provenance["answer"] for result in (first, fourth)] == ["generated", "given"]


def test_answers_are_generated_together(explainer: Explainer, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    generate_many = TinyAdapter.generate_many

    def counted(self: TinyAdapter, inputs: list[object], generation: Generation) -> object:
        sizes.append(len(inputs))
        return generate_many(self, inputs, generation)  # type: ignore[arg-type]

    monkeypatch.setattr(TinyAdapter, "generate_many", counted)
    assert len(list(explainer.explain_many(requests_of(2 * TOGETHER + 1), generation=FEW))) == 2 * TOGETHER + 1
    assert sorted(sizes) == [1, TOGETHER, TOGETHER]


def test_drawn_answers_are_those_of_their_seeds(explainer: Explainer) -> None:
    adapter, drawn = explainer.adapter, Generation(steps=4, temperature=1.0, seed=3)
    inputs = [adapter.encode(image, adapter.default_prompt) for image in IMAGES[:2]]
    for together, alone in zip(adapter.generate_many(inputs, drawn), inputs, strict=True):
        assert torch.equal(together.tokens, adapter.generate(alone, drawn).tokens)


# -------------------------------------------------------------------------------------------------------------- errors


def test_an_error_is_the_result_of_its_request(explainer: Explainer) -> None:
    wrong = [
        ExplainRequest(IMAGES[0], "what is the zebra ?"),
        ExplainRequest(IMAGES[0], targets=["zebra"]),
        ExplainRequest("no-such-file.png"),
        ExplainRequest(IMAGES[0], generation=Generation(block_length=7)),
        ExplainRequest(IMAGES[0], targets="nouns"),
        "not a request",
    ]
    errors = [AdapterError, ValueError, FileNotFoundError, ValueError, ValueError, TypeError]
    requests = [item for pair in zip(requests_of(6), wrong, strict=True) for item in pair]
    results = list(explainer.explain_many(requests, generation=FEW))  # type: ignore[arg-type]
    assert [type(result) for result in results[::2]] == [Explanation] * 6
    for result, request, error in zip(results[1::2], wrong, errors, strict=True):
        assert isinstance(result, RequestError)
        assert result.request is request
        assert isinstance(result.error, error)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"method": "best"}, ValueError, "explain: method must be one of"),
        ({"profile": "best"}, ValueError, "profile: name must be one of"),
        ({"generation": 3}, TypeError, "explain_many: generation must be a Generation, got 3"),
        ({"scores": 1}, TypeError, "explain_many: scores must be True or False, got 1"),
    ],
)
def test_options_are_checked_at_once(
    explainer: Explainer, options: dict[str, object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        explainer.explain_many([], **options)  # type: ignore[arg-type]


def test_requests_must_be_iterable(explainer: Explainer) -> None:
    with pytest.raises(TypeError, match="explain_many: requests must be an iterable of ExplainRequest, got 3"):
        explainer.explain_many(3)  # type: ignore[arg-type]


@pytest.mark.parametrize("threads", [1, 2])
def test_an_error_of_the_iterator_comes_after_the_results_before_it(explainer: Explainer, threads: int) -> None:
    torch.set_num_threads(threads)

    def broken() -> Iterator[ExplainRequest]:
        yield from requests_of(TOGETHER + 1)
        raise OSError("disk")

    results = explainer.explain_many(broken(), generation=FEW)
    assert [type(next(results)) for _ in range(TOGETHER + 1)] == [Explanation] * (TOGETHER + 1)
    with pytest.raises(OSError, match="disk"):
        next(results)


# ----------------------------------------------------------------------------------------------------- laziness, order


def test_few_requests_are_read_ahead(explainer: Explainer) -> None:
    read = 0

    def endless() -> Iterator[ExplainRequest]:
        nonlocal read
        while True:
            read += 1
            yield ExplainRequest(IMAGES[0], targets=[0])

    results = explainer.explain_many(endless(), generation=Generation(steps=1))
    assert read == 0
    for taken in range(1, 2 * TOGETHER + 2):
        next(results)
        assert read <= taken + TOGETHER * 3
    results.close()
    assert list(results) == []


def test_memory_is_bounded() -> None:
    """Of many items, only those begun and not handed out are alive."""
    alive, most = 0, 0
    lock = threading.Lock()

    class Counted:
        def __init__(self) -> None:
            nonlocal alive, most
            with lock:
                alive += 1
                most = max(most, alive)

        def __del__(self) -> None:
            nonlocal alive
            with lock:
                alive -= 1

    for _ in run_in_order(lambda item: item, (Counted() for _ in range(200)), 3):
        pass
    assert most <= 8  # 4 begun, and those that the caller, the threads' last tasks and the generator hold


def test_results_keep_their_order_whichever_ends_first() -> None:
    second_ended = threading.Event()

    def slow_first(item: int) -> int:
        if item == 0:
            assert second_ended.wait(LIMIT)
        if item == 1:
            second_ended.set()
        return item * item

    assert list(run_in_order(slow_first, range(30), 2)) == [item * item for item in range(30)]


def test_items_run_at_once_under_one_thread_of_torch_each() -> None:
    barrier = threading.Barrier(3)  # which only three threads at once get past

    def task(item: int) -> int:
        barrier.wait(LIMIT)
        return torch.get_num_threads()

    assert list(run_in_order(task, range(9), 3)) == [1] * 9
    assert torch.get_num_threads() == 2


@pytest.mark.parametrize("threads", [1, 2])
def test_after_closing_no_item_is_begun(threads: int) -> None:
    begun: list[int] = []
    results = run_in_order(begun.append, iter(range(1000)), threads)
    next(results)
    results.close()
    count, active = len(begun), threading.active_count()
    assert count <= 1 + threads + 1
    assert list(results) == []
    assert (len(begun), threading.active_count()) == (count, active)


def test_closing_interrupts_what_is_in_work(explainer: Explainer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second group works until it is interrupted."""
    began, groups = threading.Event(), iter(range(1000))
    generate_many = TinyAdapter.generate_many

    def endless(self: TinyAdapter, inputs: list[object], generation: Generation) -> object:
        if next(groups) == 0:
            assert began.wait(LIMIT)
            return generate_many(self, inputs, generation)  # type: ignore[arg-type]
        began.set()
        while True:
            check_interruption()

    monkeypatch.setattr(TinyAdapter, "generate_many", endless)
    results = explainer.explain_many(requests_of(3 * TOGETHER), generation=FEW)
    assert isinstance(next(results), Explanation)
    results.close()


def test_threads_end_with_the_iterator(explainer: Explainer) -> None:
    before = set(threading.enumerate())
    for close in (True, False):
        results = explainer.explain_many(requests_of(6), generation=FEW)
        next(results)
        assert torch.get_num_threads() == 2
        if close:
            results.close()
        else:
            assert len(list(results)) == 5
        assert set(threading.enumerate()) <= before
        assert torch.get_num_threads() == 2


def test_between_results_torch_modes_are_the_callers(explainer: Explainer) -> None:
    with torch.inference_mode():
        for result in explainer.explain_many(requests_of(2), generation=FEW):
            assert torch.is_inference_mode_enabled()
            assert isinstance(result, Explanation)
            assert not result.maps.is_inference()


def test_a_compiler_runs_on_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    explainer = Explainer(TinyAdapter())
    explainer.resources = replace(explainer.resources, compile=True)
    monkeypatch.setattr("dcam_fast.many.new_pool", lambda _: pytest.fail("started threads"))
    calls: list[Callable[..., object]] = []
    monkeypatch.setattr("dcam_fast.attribution.engine.compiled", lambda function: calls.append(function) or function)
    assert [type(result) for result in explainer.explain_many(requests_of(2), generation=FEW)] == [Explanation] * 2
    assert calls


def test_an_objective_of_the_callers_may_be_used(explainer: Explainer) -> None:
    method = GradientCAM(objective=lambda logits: logits[5])
    results = list(explainer.explain_many(requests_of(5), method=method, generation=FEW))
    assert [type(result) for result in results] == [Explanation] * 5


def test_groups_are_read_lazily() -> None:
    source = iter(range(5))
    groups = grouped(source, 2)
    assert next(groups) == [0, 1]
    assert next(source) == 2
    assert list(groups) == [[3, 4]]
