"""LaViDa and LLaDA-V on stubs of the authors' packages, by the checks that the real code passes."""

from __future__ import annotations

from typing import Any

import checks
import llava_stubs
import pytest
import torch
from llava_stubs import CANVASES, make_model, package
from llava_subjects import LENGTH, VOCABULARY, LavidaSubject, LladavSubject

from dcam_fast.models.adapter import AdapterError
from dcam_fast.models.generation import Generation
from dcam_fast.models.llava.anyres import Anyres
from dcam_fast.testing import check_adapter

SIZES = [(480, 640), (900, 300), (800, 800), (300, 1200), (333, 517), (150, 1100), (1200, 1600)]
IMAGE = checks.picture(120, 200)
every_topology = pytest.mark.parametrize(
    ("family", "attention"), [("lavida", "prefix"), ("lavida", "joint"), ("lladav", "joint")], indirect=["family"]
)
family = llava_stubs.each_family


@pytest.fixture(scope="module")
def model(family: str) -> Any:
    return make_model(family)


@pytest.fixture
def subject(family: str, model: Any, attention: str) -> Any:
    return LladavSubject(model) if family == "lladav" else LavidaSubject(model, attention)


# ------------------------------------------------------------------------------------------------ against their code


@every_topology
@pytest.mark.parametrize(("steps", "block_length"), [(1, 8), (3, 8), (4, 4), (8, 2)])
def test_generation(subject: Any, steps: int, block_length: int) -> None:
    checks.check_generation(subject, IMAGE, Generation(steps, block_length))


@every_topology
def test_rows(subject: Any) -> None:
    checks.check_rows(subject, IMAGE)


@every_topology
def test_sampling(subject: Any) -> None:
    """The draws are those of torch's own generator, by the official code."""
    schedules = [(3, 8), (4, 4)] if len(VOCABULARY) == subject.adapter.model.config.vocab_size else [(2, 8)]  # slow
    for steps, block_length in schedules:
        checks.check_generation(subject, IMAGE, Generation(steps, block_length, temperature=0.5, seed=1))


@every_topology
def test_gradients_are_those_of_the_full_graph(subject: Any) -> None:
    assert checks.check_gradients(subject, IMAGE, (0, 3, 7)) <= 1e-6


def test_changed_pixels_change_their_cell(family: str, model: Any) -> None:
    subject = LladavSubject(model) if family == "lladav" else LavidaSubject(model, "joint")
    assert [checks.check_changed_pixels(subject, h, w) for h, w in SIZES] == [10] * len(SIZES)


@every_topology
def test_check_adapter(subject: Any) -> None:
    check_adapter(subject.adapter, checks.picture(100, 150), checks.PROMPT)
    checks.check_given(subject.adapter, IMAGE, Generation(), "remask", "committed", "first", "final")


@every_topology
def test_maps(subject: Any) -> None:
    explanation = checks.check_contrasts(subject, IMAGE)
    assert explanation.raw_maps.shape[1:] == subject.adapter.encode(IMAGE, checks.PROMPT).views[0].cells.shape
    assert bool(explanation.maps.isfinite().all())
    assert bool((explanation.raw_maps.amax((1, 2)) > explanation.raw_maps.amin((1, 2))).all())


@every_topology
def test_the_callers_modes(subject: Any, check_modes: Any) -> None:
    check_modes(lambda: subject.adapter, checks.PROMPT)


@pytest.mark.parametrize("view", ["grid", "base"])
def test_views(family: str, model: Any, view: str) -> None:
    subject = LladavSubject(model, view) if family == "lladav" else LavidaSubject(model, "joint", view)
    views = subject.adapter.encode(IMAGE, checks.PROMPT).views
    assert views[0].name == view
    assert {view.name for view in views} == {"grid", "base"}
    cells = torch.cat([view.cells.flatten() for view in views])
    assert len(cells.unique()) == len(cells)


def test_an_answer_stops_at_the_end_of_the_turn() -> None:
    with package("lladav"):
        one = LladavSubject(make_model("lladav"))
        with torch.no_grad():  # every guess is the end of the turn
            one.adapter.model.lm_head.weight.zero_()
            bias = torch.zeros(one.adapter.model.config.vocab_size)
            bias[1] = 5
            bias[126081] = 9  # surer, but never written
            one.adapter.model.lm_head.bias = torch.nn.Parameter(bias)
        own = one.generate(IMAGE, Generation(8, 4))
        inputs = one.adapter.encode(IMAGE, checks.PROMPT)
        trajectory = one.adapter.generate(inputs, Generation(8, 4))
    assert trajectory.length == len(own.tokens)
    assert len(own.logits) == int(trajectory.steps[trajectory.steps < LENGTH].max()) + 1
    assert 126081 not in trajectory.tokens.tolist()


def test_the_photos_cells_by_the_authors_numbers() -> None:
    """Of the real towers: 640 x 480 and 1600 x 1200 pixels."""
    lavida = Anyres(tuple((w, h) for w, h in CANVASES), 384, 14)
    lladav = Anyres(tuple((384 * a, 384 * b) for a in range(1, 7) for b in range(1, 7)), 384, 14, 4)
    found = [(lavida.grid((640, 480), 14).shape, 22 * 29 + 196)]
    found += [(lladav.grid(size, 27).shape, lladav.grid(size, 27).tokens) for size in ((640, 480), (1600, 1200))]
    assert found == [((22, 28), 834), ((40, 54), 2929), ((46, 62), 3627)]


@every_topology
def test_unsupported_requests(subject: Any) -> None:
    adapter = subject.adapter
    inputs = adapter.encode(IMAGE, checks.PROMPT)
    with pytest.raises(AdapterError, match="block_length must divide the 8 tokens of an answer, got 3"):
        adapter.generate(inputs, Generation(8, 3))
    with pytest.raises(AdapterError, match="steps must be a multiple of the 2 blocks and at most 8, got 3"):
        adapter.generate(inputs, Generation(3, 4))
    with pytest.raises(AdapterError, match="prompt must leave '<image>' to the chat template, got 2"):
        adapter.encode(IMAGE, "what is <image>")
    own = adapter.tokenizer.convert_ids_to_tokens(adapter.mask_token)
    with pytest.raises(AdapterError, match="prompt must not have the model's reserved token"):
        adapter.encode(IMAGE, f"what is {own} this")
    assert adapter.decode(torch.tensor([999_999])) == "<999999>"
    with pytest.raises(
        AdapterError, match="image must be wide and high enough for a row of cells, got 4000 x 1 pixels"
    ):
        adapter.encode(checks.picture(1, 4000), checks.PROMPT)
    with pytest.raises(AdapterError, match="no gradient reaches the image at the output of the last layer"):
        adapter.check_layers((adapter.num_layers - 1,))


@every_topology
def test_guesses_differ(subject: Any) -> None:
    """Or else the comparisons of tokens would say little."""
    trajectory = subject.adapter.generate(subject.adapter.encode(IMAGE, checks.PROMPT))
    assert len(trajectory.tokens.unique()) >= 2
    assert not trajectory.steps.equal(trajectory.steps.sort().values)
