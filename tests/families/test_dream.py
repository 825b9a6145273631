"""Dimple's and Dream-VL's adapters on stubs of the two models: what `check_real.py` checks on the authors' code,
and what happens when a checkpoint is not as it should be."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import checks
import pytest
import torch
import transformers
from dream import LENGTH, TEMPLATE, DreamSubject
from dream_checkpoint import make_checkpoint
from PIL import Image
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from dcam_fast import Explainer, models
from dcam_fast.cli.app import app
from dcam_fast.models import AdapterError, checkpoint
from dcam_fast.models.adapter import OPEN
from dcam_fast.models.dream.adapter import DreamAdapter, DreamInputs
from dcam_fast.models.dream.dimple import DimpleAdapter
from dcam_fast.models.dream.dream_vl import DreamVLAdapter
from dcam_fast.models.generation import Generation
from dcam_fast.testing import check_adapter

STAND_INS = Path(__file__).parent / "stubs"
FAMILIES = {"dimple": DimpleAdapter, "dream-vl": DreamVLAdapter}
RANGES = {family: adapter.transformers for family, adapter in FAMILIES.items()}
CASES = [("dimple", "prefix"), ("dimple", "joint"), ("dream-vl", "joint")]
SIZES = [(480, 640), (900, 300), (800, 800), (300, 1200), (333, 517), (28, 28), (31, 900), (1000, 47), (29, 57)]


@pytest.fixture(scope="module", autouse=True)
def _any_release(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The stubs run in the installed transformers, unlike the authors' code, and are removed afterwards."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(transformers.dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path_factory.mktemp("modules")))
        patch.setattr(sys, "path", list(sys.path))
        for family in FAMILIES.values():
            patch.setattr(family, "transformers", checkpoint.Releases("4.46", "9", "any"))
        yield


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folders = {}
    for family in FAMILIES:
        folders[family] = tmp_path_factory.mktemp("checkpoint") / f"tiny-{family}"
        folders[family].mkdir()
        make_checkpoint(family, folders[family], STAND_INS / "dream", STAND_INS / family.replace("-", "_"))
    return folders


@pytest.fixture(scope="module")
def loaded(checkpoints: dict[str, Path]) -> dict[str, Any]:
    return {family: models.load(str(folder), trust_remote_code=True) for family, folder in checkpoints.items()}


@pytest.fixture(params=CASES, ids=" ".join)
def subject(request: pytest.FixtureRequest, loaded: dict[str, Any]) -> DreamSubject:
    family, attention = request.param
    return with_options(loaded[family], attention=attention)


def with_options(adapter: DreamAdapter, **options: Any) -> DreamSubject:
    make: Any = type(adapter)
    return DreamSubject(
        make(adapter.model, adapter.processor, name=adapter.name, **{"answer_length": LENGTH, **options})
    )


@pytest.fixture(params=list(FAMILIES))
def family(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def damaged(family: str, checkpoints: dict[str, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(checkpoints[family], tmp_path / f"tiny-{family}"))


# ------------------------------------------------------------------------------------------------- against their code


@pytest.mark.parametrize("steps", [1, 3, 8, 20])
@pytest.mark.parametrize("temperature", [None, 0.5])
def test_generation(subject: DreamSubject, steps: int, temperature: float | None) -> None:
    checks.check_generation(subject, checks.picture(200, 300), Generation(steps, LENGTH, temperature, seed=1))


def test_rows(subject: DreamSubject) -> None:
    checks.check_rows(subject, checks.picture(60, 90))


def test_guesses_differ(subject: DreamSubject) -> None:
    """Or else the comparisons of tokens would say little."""
    trajectory = subject.adapter.generate(subject.adapter.encode(checks.picture(200, 300), checks.PROMPT))
    assert len(trajectory.tokens.unique()) >= 3
    assert not trajectory.steps.equal(trajectory.steps.sort().values)


def test_generation_at_its_own_length(family: str, loaded: dict[str, Any]) -> None:
    length = loaded[family].answer_length
    checks.check_generation(DreamSubject(loaded[family]), checks.picture(60, 90), Generation(length, length))


@pytest.mark.parametrize("attention", ["prefix", "joint"])
def test_confident_guesses_are_written_together(loaded: dict[str, Any], attention: str) -> None:
    image = checks.picture(200, 300)
    slow = with_options(loaded["dimple"], attention=attention)
    threshold = slow.threshold(image)
    quick = with_options(loaded["dimple"], attention=attention, threshold=threshold)
    for steps in (2, 8, 20):
        checks.check_generation(quick, image, Generation(steps, LENGTH))
    taken = [
        int(one.adapter.generate(one.adapter.encode(image, checks.PROMPT), Generation(20)).steps.max())
        for one in (slow, quick)
    ]
    assert taken[1] < taken[0]


def guessing(adapter: DreamAdapter, *tokens: str) -> Any:
    """A `logits_fn` with these best guesses at any canvas, in descending confidence; the last fills the answer."""
    ids = adapter.tokenizer.convert_tokens_to_ids(list(tokens))
    logits = torch.zeros(adapter.answer_length, adapter.config.vocab_size)
    for position in range(adapter.answer_length):
        logits[position, ids[min(position, len(ids) - 1)]] = 9 - position / 8
    return lambda _inputs: lambda _canvas: logits


def test_a_guessed_mask_stays_masked_until_the_last_step(
    subject: DreamSubject, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter = subject.adapter
    monkeypatch.setattr(adapter, "logits_fn", guessing(adapter, "a", "<|mask|>"))
    *so_far, trajectory = adapter.denoise(adapter.encode(checks.picture(60, 90), "what"), Generation(8))
    for state in so_far:
        assert (state.steps == OPEN).equal(state.tokens == adapter.mask_token)
    assert trajectory.tokens[0] == adapter.tokenizer.convert_tokens_to_ids("a")
    assert adapter.mask_token not in trajectory.tokens.tolist()
    assert trajectory.steps[0] < 7
    assert trajectory.steps[1:].tolist() == [7] * (LENGTH - 1)


@pytest.mark.parametrize("end", ["eos_token", "pad_token"])
def test_an_answer_ends_where_the_model_ends_it(
    subject: DreamSubject, end: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter = subject.adapter
    monkeypatch.setattr(adapter, "logits_fn", guessing(adapter, "a", "b", getattr(adapter.tokenizer, end), "c"))
    trajectory = adapter.generate(adapter.encode(checks.picture(60, 90), "what"), Generation(4))
    assert trajectory.length == 2
    assert [word.text for word in adapter.words(trajectory)] == ["ab"]
    assert adapter.decode(trajectory.tokens[:2]) == "ab"


def test_a_marked_image_has_positions_by_row_and_column(
    loaded: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    one = with_options(loaded["dream-vl"])
    image, adapter = checks.picture(200, 300), one.adapter
    cos, _ = adapter.encode(image, checks.PROMPT).rotary
    assert cos[0].equal(cos[1])
    monkeypatch.setattr(adapter.processor, "chat_template", TEMPLATE["dimple"])
    inputs = adapter.encode(image, checks.PROMPT)
    cells, (cos, _) = inputs.views[0].cells, inputs.rotary
    for axis, same in ((0, cells[:1, :1]), (1, cells[:, :1]), (2, cells[:1])):
        assert cos[axis, 0, cells].equal(cos[axis, 0, same].expand(*cells.shape, -1))
    assert not cos[1].equal(cos[2])
    checks.check_generation(one, image, Generation(8, LENGTH))
    checks.check_gradients(one, image, (0, 3, 7))


@pytest.mark.parametrize("size", [(200, 300), (300, 90)])
def test_gradients_are_those_of_the_full_graph(subject: DreamSubject, size: tuple[int, int]) -> None:
    checks.check_gradients(subject, checks.picture(*size), tuple(range(LENGTH)))


def test_check_adapter(subject: DreamSubject) -> None:
    check_adapter(subject.adapter, checks.picture(300, 200), checks.PROMPT)


def test_changed_pixels_change_their_cell(family: str, loaded: dict[str, Any]) -> None:
    subject = with_options(loaded[family])
    found = [checks.check_changed_pixels(subject, h, w) for h, w in SIZES]
    assert min(found) >= 3


@pytest.mark.parametrize(("h", "w"), SIZES)
def test_boxes_tile_the_photo(loaded: dict[str, Any], h: int, w: int) -> None:
    inputs: DreamInputs = loaded["dimple"].encode(checks.picture(h, w), "what")
    view = inputs.views[0]
    x0, y0, x1, y1 = view.boxes.unbind(-1)
    rows, columns = view.cells.shape
    assert (x0[:, 0].max(), y0[0].max()) == (0, 0)
    assert (x1[:, -1].min(), y1[-1].min()) == (w, h)
    assert x1[:, :-1].equal(x0[:, 1:])
    assert y1[:-1].equal(y0[1:])
    assert inputs.side == 28 * min(rows, columns)
    assert view.cells.flatten().equal(torch.arange(rows * columns) + view.cells[0, 0])


# ---------------------------------------------------------------------------------------------------------- in the use


@pytest.mark.parametrize("method", ["default", "published", "tam"])
def test_maps(subject: DreamSubject, method: str) -> None:
    explanation = Explainer(subject.adapter).explain(checks.picture(200, 300), checks.PROMPT, "all", method=method)
    assert len(explanation.targets) > 0
    assert explanation.raw_maps.shape[1:] == (7, 11)
    assert bool(explanation.maps.isfinite().all())
    assert bool((explanation.raw_maps.amax((1, 2)) > explanation.raw_maps.amin((1, 2))).all())


def test_image_logits_are_those_of_the_whole_row(subject: DreamSubject) -> None:
    """With joint attention: at the output of the last layer, through norm and head, as for an answer's row."""
    adapter = subject.adapter
    inputs = adapter.encode(checks.picture(200, 300), checks.PROMPT)
    canvas = adapter.generate(inputs).tokens
    hidden = adapter.embed(inputs, canvas[None])
    for index in range(adapter.num_layers - 1):
        hidden = adapter.layer(index, hidden, inputs)
    cells, tokens = inputs.views[0].cells.flatten(), torch.tensor([5, 2, 200])
    got = adapter.image_logits(hidden, cells, tokens, inputs)
    _, states = subject.full(inputs, canvas)
    expected = adapter.model.lm_head(adapter.model.model.norm(states[-1][:, cells]))[..., tokens]
    assert checks.relative(got, expected.detach()) <= 1e-6


def test_a_stream_is_the_same_answer(subject: DreamSubject) -> None:
    image = checks.picture(200, 300)
    stream = Explainer(subject.adapter).stream(image, checks.PROMPT)
    positions = [token.position for step in stream for token in step.tokens]
    whole = Explainer(subject.adapter).explain(image, checks.PROMPT, "all")
    assert sorted(positions) == list(range(len(positions)))
    assert stream.explanation().answer == whole.answer


# ----------------------------------------------------------------------------------------------------- what is rejected


def test_unsupported_requests(family: str, loaded: dict[str, Any]) -> None:
    adapter = loaded[family]
    inputs = adapter.encode(checks.picture(60, 90), "what")
    with pytest.raises(AdapterError, match=r"block_length must be \d+, the whole answer, got 8"):
        adapter.generate(inputs, Generation(block_length=8))
    for options, message in (
        ({"attention": "causal"}, r"attention must be .*joint, got 'causal'"),
        ({"answer_length": 0}, "answer_length must be at least 1, got 0"),
    ):
        with pytest.raises(AdapterError, match=f"{family}: {message}"):
            with_options(adapter, **options)
    for token in ("<|image_pad|>", "<|video_pad|>", "<|mask|>"):
        with pytest.raises(AdapterError, match="prompt must not have the model's reserved token"):
            adapter.encode(checks.picture(60, 90), f"what {token}")
    with pytest.raises(AdapterError, match="image must be one that the model can process, got 900 x 4 pixels"):
        adapter.encode(checks.picture(4, 900), "what")
    with pytest.raises(AdapterError, match=r"no gradient reaches the image at the output of the last layer"):
        adapter.check_layers((adapter.num_layers - 1,))


def test_a_causal_dimple_is_refused(loaded: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loaded["dimple"].model.config, "full_attn_mask", False)
    with pytest.raises(AdapterError, match="full_attn_mask in the model's config must be true"):
        with_options(loaded["dimple"])


def test_code_runs_only_when_trusted(damaged: Path, tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    for file in damaged.glob("*.py"):
        file.write_text(f"{file.read_text()}\nopen({str(ran)!r}, 'a').close()\n")
    with pytest.raises(AdapterError, match=r"trust_remote_code \(--trust-remote-code\) must be True.*got False"):
        models.load(str(damaged))
    assert not ran.exists()
    models.load(str(damaged), trust_remote_code=True)
    assert ran.exists()


def test_command_line(family: str, checkpoints: dict[str, Path], tmp_path: Path) -> None:
    Image.fromarray(checks.picture(60, 90)).save(tmp_path / "a.png")
    command = [
        "explain",
        str(tmp_path / "a.png"),
        "--model",
        str(checkpoints[family]),
        "--out",
        str(tmp_path / "out"),
    ]
    rejected = CliRunner().invoke(app, command)
    assert rejected.exit_code == 1
    assert "--trust-remote-code" in rejected.output
    assert CliRunner().invoke(app, [*command, "--trust-remote-code", "--target", "all"]).exit_code == 0
    assert (tmp_path / "out" / "a").is_dir()


@pytest.mark.parametrize(
    ("release", "works"), [("4.45.2", 0), ("4.46.0", 1), ("4.51.3", 1), ("4.52.0", 0), ("5.0.0", 0)]
)
def test_releases_of_transformers(
    family: str, checkpoints: dict[str, Path], monkeypatch: pytest.MonkeyPatch, release: str, works: bool
) -> None:
    monkeypatch.setattr(FAMILIES[family], "transformers", RANGES[family])
    monkeypatch.setattr(checkpoint.transformers, "__version__", release)
    if works:
        models.load(str(checkpoints[family]), trust_remote_code=True)
        return
    with pytest.raises(AdapterError, match=rf"{family}: .* got {release}; pip install 'transformers>=4\.46,<4\.52'"):
        models.load(str(checkpoints[family]), trust_remote_code=True)


# ------------------------------------------------------------------------------------------------ damaged checkpoints


def load(path: Path) -> None:
    models.load(str(path), trust_remote_code=True)


def shards(path: Path) -> list[Path]:
    files = sorted(path.glob("model-*.safetensors"))
    assert len(files) > 1
    return files


def test_missing_shard(damaged: Path) -> None:
    shards(damaged)[1].unlink()
    with pytest.raises(AdapterError, match=r"weights must be in .*00002.*got none there"):
        load(damaged)


@pytest.mark.parametrize("keep", [0, 5, 1000, -1])
def test_truncated_shard(damaged: Path, keep: int) -> None:
    file = shards(damaged)[0]
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(AdapterError, match=f"{file.name} must be a whole safetensors file"):
        load(damaged)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((3, 5), "must be of the configuration's shape, got mismatched"),
        (None, "must be in the checkpoint, got missing"),
    ],
)
def test_wrong_weights(damaged: Path, shape: tuple[int, int] | None, message: str) -> None:
    key = "model.layers.2.self_attn.q_proj.weight"
    file = next(file for file in shards(damaged) if key in load_file(file))
    weights = load_file(file)
    del weights[key]
    save_file(weights | ({} if shape is None else {key: torch.zeros(shape)}), file, metadata={"format": "pt"})
    with pytest.raises(AdapterError, match=f"{message} .*q_proj"):
        load(damaged)


def test_missing_code(damaged: Path) -> None:
    next(damaged.glob("modeling_*.py")).unlink()
    with pytest.raises(AdapterError, match="must hold the model's code and its processor"):
        load(damaged)


def test_missing_processor(damaged: Path) -> None:
    (damaged / "preprocessor_config.json").unlink()
    with pytest.raises(AdapterError, match=r"must hold the model's processor, got only its .*Tokenizer"):
        load(damaged)


def test_a_checkpoint_that_does_not_name_its_code(damaged: Path) -> None:
    file = damaged / "config.json"
    config = json.loads(file.read_text())
    del config["auto_map"]["AutoModel"]
    file.write_text(json.dumps(config))
    with pytest.raises(AdapterError, match="must name the model's code in auto_map"):
        load(damaged)


def test_a_template_without_an_image(loaded: dict[str, Any], family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loaded[family].processor, "chat_template", "{{ messages[0].content[1].text }}")
    with pytest.raises(AdapterError, match=f"{family}: chat template must have room for 6 cells, got 0"):
        loaded[family].encode(checks.picture(60, 90), "what")


def test_missing_chat_template(damaged: Path) -> None:
    (damaged / "chat_template.json").unlink()
    adapter = models.load(str(damaged), trust_remote_code=True)
    with pytest.raises(AdapterError, match="processor must have a chat template, got none"):
        adapter.encode(checks.picture(60, 90), "what")


@pytest.mark.parametrize(("family", "attention"), CASES)
def test_the_callers_modes(checkpoints: dict[str, Path], family: str, attention: str, check_modes: Any) -> None:
    path = checkpoints[family]
    check_modes(lambda: models.load(path, attention=attention, trust_remote_code=True), checks.PROMPT)
