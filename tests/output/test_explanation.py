"""`Explanation`: its targets by name, its pieces, its checks."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from explanations import make

from dcam_fast.explained_answer import Target, Token


@pytest.mark.parametrize(
    ("target", "index"),
    [("red", 0), ("RING", 1), ("ring#1", 1), ("ring#2", 3), (" blue ", 2), (0, 0), (np.int64(3), 3)],
)
def test_find(target: str | int, index: int) -> None:
    explanation = make()
    assert explanation.find(target) == index
    assert torch.equal(explanation.map(target), explanation.maps[index])


@pytest.mark.parametrize("target", ["dog", "ring#3", "ring#0", "red#2", "", "#", 4, -1])
def test_find_lists_the_targets(target: str | int) -> None:
    with pytest.raises(ValueError, match=r"^Explanation.find: target must be one of 'red', 'Ring', 'blue', 'ring#2'"):
        make().find(target)


def test_find_without_targets() -> None:
    with pytest.raises(ValueError, match="no targets"):
        make(targets=()).find("ring")
    with pytest.raises(TypeError):
        make().find(1.5)  # type: ignore[arg-type]


def test_pieces_are_the_answer() -> None:
    explanation = make()
    pieces = explanation.pieces()
    assert "".join(piece.text for piece in pieces) == explanation.answer
    assert [piece.text for piece in pieces if piece.target is not None] == ["red", "Ring", "blue", "ring"]
    assert [piece.target for piece in pieces if piece.target is not None] == [0, 1, 2, 3]


def test_pieces_of_subword_tokens() -> None:
    texts = ["A", " ring", "let", "\ufffd", "\ufffd", " ring", "<end>"]
    tokens = tuple(Token(text, i, i, 0) for i, text in enumerate(texts))
    targets = (
        Target("ringlet", (1, 2), 1, 0, 1),
        Target("A ringlet", (0, 1, 2), 1, 0, 1),
        Target("ring", (5,), 1, 0, 1),
    )
    maps = torch.zeros(3, 3, 5)
    explanation = replace(make(), answer="A ringlet 環 ring", tokens=tokens, targets=targets, maps=maps, raw_maps=maps)
    owned = [(piece.text, piece.target) for piece in explanation.pieces() if piece.token]
    assert owned == [("A", 1), ("ring", 0), ("let", 0), ("環", None), ("ring", 2)]
    assert "".join(piece.text for piece in explanation.pieces()) == explanation.answer


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("image", np.zeros((4, 4), np.uint8), r"image must be uint8 \[H, W, 3\], got uint8 \[4, 4\]"),
        ("image", np.zeros((4, 4, 3)), "got float64"),
        ("maps", torch.zeros(3, 3, 5), r"maps must be float32 \[4, h, w\]"),
        ("maps", torch.zeros(4, 3, 5, dtype=torch.float64), "got torch.float64"),
        ("raw_maps", torch.zeros(4, 5, 3), r"raw_maps must be float32 \[4, 3, 5\]"),
        ("boxes", torch.zeros(3, 5), r"boxes must be float32 \[3, 5, 4\]"),
        ("targets", (Target("x", (0,), float("nan"), 0, 0),) * 4, "finite scores"),
    ],
)
def test_inconsistent_fields_are_rejected(field: str, value: object, message: str) -> None:
    with pytest.raises(ValueError, match=f"^Explanation: .*{message}"):
        replace(make(), **{field: value})


def test_targets_by_name() -> None:
    explanation = make()
    names = ["red", "Ring", "blue", "ring#2"]
    assert len(explanation) == 4
    assert list(explanation) == names
    assert torch.equal(explanation["ring#2"], explanation.maps[3])
    assert torch.equal(explanation[0], explanation.maps[0])
    assert [name for name, _ in explanation.items()] == names
    assert all(torch.equal(map, explanation[name]) for name, map in explanation.items())
    with pytest.raises(ValueError, match=r"^Explanation.find: target must be one of"):
        explanation["dog"]
    assert list(make(targets=()).items()) == []


def test_names_of_contrasts() -> None:
    explanation = make()
    red, ring, blue, second = explanation.targets
    contrasts = (replace(red, instead="blue"), red, replace(second, instead="star"), replace(red, instead="blue"))
    explanation = replace(explanation, targets=contrasts)
    assert explanation.names == ("red > blue", "red", "ring#2 > star", "red > blue (2)")
    for target, index in (("red>blue", 0), ("Red", 1), ("ring#2 > STAR", 2), ("red > blue (2)", 3)):
        assert explanation.find(target) == index
    assert replace(explanation, targets=(contrasts[0], ring, blue, second)).find("red") == 0
    with pytest.raises(ValueError, match=r"^Explanation.find: target must be one of 'red > blue', 'red', "):
        explanation.find("blue > red")


def test_steps_of_a_target() -> None:
    explanation = make()
    assert explanation.steps("red") == (3,)
    assert explanation.steps("ring#2") == (1,)
    phrase = replace(explanation.targets[0], text="red Ring", positions=(1, 2))
    assert replace(explanation, targets=(phrase, *explanation.targets[1:])).steps("red Ring") == (2, 3)


def test_repr_shows_shapes() -> None:
    assert repr(make()) == (
        "Explanation(answer='a red Ring , and a blue ring', targets=[red, Ring, blue, ring#2], maps=[4, 3, 5])"
    )
