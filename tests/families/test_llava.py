"""LaViDa and LLaDA-V on stubs of the authors' packages, by the checks that the real code passes."""

from __future__ import annotations

import importlib
import json
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import checks
import loading
import pytest
import torch
import transformers
from llava_subjects import LENGTH, MASK, VOCABULARY, LavidaSubject, LladavSubject, make_tokenizer, shake
from safetensors.torch import load_file, save_file

from dcam_fast import models
from dcam_fast.models import checkpoint as checkpoint_module
from dcam_fast.models.adapter import AdapterError
from dcam_fast.models.checkpoint import Releases
from dcam_fast.models.generation import Generation
from dcam_fast.models.llava.adapter import LlavaAdapter
from dcam_fast.models.llava.anyres import Anyres
from dcam_fast.testing import check_adapter

HERE = Path(__file__).parent / "stubs"
CANVASES = [[384, 768], [768, 384], [768, 768], [1152, 384], [384, 1152]]
CLASSES = {
    "lavida": ("LlavaLladaConfig", "LlavaLladaForMaskedDiffusion"),
    "lladav": ("LlavaLLaDAConfig", "LlavaLLaDAModelLM"),
}
OPTIONS: dict[str, dict[str, Any]] = {
    "lavida": {"vocab_size": len(VOCABULARY), "image_aspect_ratio": "anyres", "image_grid_pinpoints": CANVASES},
    "lladav": {"image_aspect_ratio": "anyres_max_4", "image_grid_pinpoints": "(1x1),...,(6x6)"},
}
RELEASES = LlavaAdapter.transformers
SIZES = [(480, 640), (900, 300), (800, 800), (300, 1200), (333, 517), (150, 1100), (1200, 1600)]
IMAGE = checks.picture(120, 200)
every_topology = pytest.mark.parametrize(
    ("family", "attention"), [("lavida", "prefix"), ("lavida", "joint"), ("lladav", "joint")], indirect=["family"]
)


@contextmanager
def package(family: str) -> Iterator[None]:
    """The stub is the package `llava`, in whatever transformers is there."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in sys.modules if name.split(".")[0] in ("llava", "llava_parts")]:
            patch.delitem(sys.modules, name)
        patch.setattr(sys, "path", [str(HERE / family), str(HERE / "llava_shared"), *sys.path])
        patch.setattr(LlavaAdapter, "transformers", Releases("4.46", "9", "any"))
        importlib.invalidate_caches()
        yield
        for name in [name for name in sys.modules if name.split(".")[0] in ("llava", "llava_parts")]:
            del sys.modules[name]


def ask_for_a_tower(patch: pytest.MonkeyPatch, name: str = "owner/siglip-tower") -> None:
    """The model's constructor asks for a pretrained tower, as the authors' does."""
    parts = importlib.import_module("llava_parts")
    stub = parts.Tower

    class TowerConfig(transformers.PretrainedConfig):
        model_type = "stand_in_tower"

    class PretrainedTower(transformers.PreTrainedModel):
        config_class = TowerConfig
        width = 0

        def __init__(self, config: Any) -> None:
            super().__init__(config)
            self.patches = stub(self.width).patches

        image_size, num_patches_per_side = stub.image_size, stub.num_patches_per_side
        image_processor = None
        forward = stub.forward

        def _init_weights(self, module: Any) -> None:
            """Torch's own."""

    def make(width: int) -> Any:
        PretrainedTower.width = width
        tower = PretrainedTower.from_pretrained(name)
        tower.config.patch_size = parts.PATCH
        return tower

    patch.setattr(parts, "Tower", make)


def make_model(family: str) -> Any:
    module = importlib.import_module("llava.model.language_model.llava_llada")
    config_class, model_class = (getattr(module, name) for name in CLASSES[family])
    config = config_class(mm_patch_merge_type="spatial_unpad", **OPTIONS[family])
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = model_class(config)
    shake(model)
    with torch.no_grad():  # so that attention is sharp, and guesses differ from position to position
        for name, parameter in model.named_parameters():
            if "q_proj" in name or "k_proj" in name:
                parameter *= 8
    if family == "lavida":
        with torch.no_grad():  # so that no guess is a mask, which would stay one
            model.get_model().transformer.ff_out.weight[MASK] = 0
    return model


@pytest.fixture(scope="module", params=list(CLASSES))
def family(request: pytest.FixtureRequest) -> Iterator[str]:
    with package(request.param):
        yield request.param


@pytest.fixture(scope="module")
def model(family: str) -> Any:
    return make_model(family)


@pytest.fixture
def subject(family: str, model: Any, attention: str) -> Any:
    return LladavSubject(model) if family == "lladav" else LavidaSubject(model, attention)


@pytest.fixture(scope="module")
def checkpoint(family: str, model: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint") / f"tiny-{family}"
    model.save_pretrained(folder, max_shard_size="5MB" if family == "lladav" else "60KB")
    make_tokenizer(model.config.vocab_size).save_pretrained(folder)
    return folder


@pytest.fixture
def damaged(checkpoint: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(checkpoint, tmp_path / checkpoint.name))


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


# ------------------------------------------------------------------------------------------------------- loading


def test_loading(family: str, checkpoint: Path) -> None:
    adapter: Any = models.load(str(checkpoint))
    assert adapter.attention == ("joint" if family == "lladav" else "prefix")
    assert adapter.name == f"tiny-{family}"
    assert adapter.encode(IMAGE, checks.PROMPT).embedded.isfinite().all()
    assert not any(parameter.requires_grad for parameter in adapter.model.parameters())
    other = "prefix" if family == "lladav" else "causal"
    with pytest.raises(AdapterError, match=f"attention must be .*joint, got '{other}'"):
        models.load(str(checkpoint), attention=other)


@pytest.mark.parametrize("stored", loading.DTYPES)
@pytest.mark.parametrize("dtype", [None, *loading.DTYPES])
def test_weights_are_of_one_dtype(damaged: Path, stored: torch.dtype, dtype: torch.dtype | None) -> None:
    """LaViDa's class says bfloat16 for some of them, whatever the caller requests."""
    loading.store(damaged, stored)
    adapter: Any = models.load(str(damaged), dtype=dtype)
    assert {parameter.dtype for parameter in adapter.model.parameters()} == {dtype or torch.float32}
    assert torch.get_default_dtype() == torch.float32


def test_a_tower_that_the_checkpoint_holds_needs_no_network(damaged: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ask_for_a_tower(monkeypatch)
    adapter: Any = models.load(str(damaged))
    assert adapter.encode(IMAGE, checks.PROMPT).embedded.isfinite().all()


def test_missing_tower(damaged: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ask_for_a_tower(monkeypatch)
    for file in shards(damaged):
        weights = {key: tensor for key, tensor in load_file(file).items() if "vision_tower" not in key}
        save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(AdapterError, match=r"load: 'owner/siglip-tower', named in .*config.json, must be a folder or"):
        models.load(str(damaged))


def test_a_towers_own_folder_has_what_the_checkpoint_lacks(
    damaged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask_for_a_tower(monkeypatch, str(tmp_path / "tower"))
    own: dict[str, torch.Tensor] = {}
    for file in shards(damaged):
        weights = load_file(file)
        own |= {key.rpartition("vision_tower.")[2]: weights.pop(key) for key in list(weights) if "vision_tower" in key}
        save_file(weights, file, metadata={"format": "pt"})
    (tmp_path / "tower").mkdir()
    (tmp_path / "tower" / "config.json").write_text("{}")
    save_file(own, tmp_path / "tower" / "model.safetensors", metadata={"format": "pt"})
    adapter: Any = models.load(str(damaged))
    for key, tensor in adapter.model.get_vision_tower().state_dict().items():
        assert tensor.equal(own[key])


def shards(path: Path) -> list[Path]:
    files = sorted(path.glob("model-*.safetensors"))
    assert len(files) > 1
    return files


def test_missing_shard(damaged: Path) -> None:
    shards(damaged)[1].unlink()
    with pytest.raises(AdapterError, match=r"weights must be in .*00002.*got none there"):
        models.load(str(damaged))


@pytest.mark.parametrize("keep", [0, 5, 1000, -1])
def test_truncated_shard(damaged: Path, keep: int) -> None:
    file = shards(damaged)[0]
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(AdapterError, match=f"{file.name} must be a whole safetensors file"):
        models.load(str(damaged))


@pytest.mark.parametrize(("shape", "message"), [((3, 5), "mismatched"), (None, "missing")])
def test_wrong_weights(damaged: Path, shape: tuple[int, int] | None, message: str) -> None:
    file, key = next((file, key) for file in shards(damaged) for key in load_file(file) if "k_proj" in key)
    weights = load_file(file)
    del weights[key]
    save_file(weights | ({} if shape is None else {key: torch.zeros(shape)}), file, metadata={"format": "pt"})
    with pytest.raises(AdapterError, match=f"got {message} .*k_proj"):
        models.load(str(damaged))


def test_missing_tokenizer(damaged: Path) -> None:
    (damaged / "tokenizer.json").unlink()
    with pytest.raises(AdapterError, match=r"must have a tokenizer.json or tokenizer.model, got neither"):
        models.load(str(damaged))


def test_another_architecture(damaged: Path) -> None:
    file = damaged / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"architectures": ["Other"]}))
    with pytest.raises(AdapterError, match=r"architectures in .* must be .*LlavaLLaDAModelLM, got 'Other'"):
        models.load(str(damaged))


@pytest.mark.parametrize("release", ["4.49.0", "4.56.0", "4.57.6", "5.23.0"])
def test_releases_of_transformers(checkpoint: Path, monkeypatch: pytest.MonkeyPatch, release: str) -> None:
    monkeypatch.setattr(LlavaAdapter, "transformers", RELEASES)
    monkeypatch.setattr(checkpoint_module.transformers, "__version__", release)
    with pytest.raises(AdapterError, match=rf"4\.56 removed.* got {release}; pip install .*>=4\.50,<4\.56"):
        models.load(str(checkpoint))


def test_the_package_of_the_other_family(family: str, checkpoint: Path) -> None:
    other = next(name for name in CLASSES if name != family)
    with package(other), pytest.raises(AdapterError, match=r"`llava` must be that of https://.*only one of them"):
        models.load(str(checkpoint))


def test_no_package(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "llava"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if not path.startswith(str(HERE))])
    with pytest.raises(AdapterError, match=r"`llava` must be importable, got ModuleNotFound.*clone https://"):
        models.load(str(checkpoint))


def test_an_import_error_that_the_package_hides(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The authors' package prints why a model's module is not there, and then misses another name."""
    for name in [name for name in sys.modules if name.split(".")[0] == "llava"]:
        monkeypatch.delitem(sys.modules, name)
    (tmp_path / "llava" / "model").mkdir(parents=True)
    (tmp_path / "llava" / "__init__.py").write_text("from .model import LlavaLlamaForCausalLM")
    message = "Failed to import llava_llada from llava.language_model.llava_llada. Error: No module named 'einops'"
    (tmp_path / "llava" / "model" / "__init__.py").write_text(f"print({message!r})")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    importlib.invalidate_caches()
    with pytest.raises(
        AdapterError, match=r"importable, got No module named 'einops'; ImportError.*pip install .*einops"
    ):
        models.load(str(checkpoint))


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
