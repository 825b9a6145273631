"""What is sent of an answer while it is being written."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from serving import FakeExplainer, asynchronous, chat, running

from dcam_fast.models.adapter import Trajectory
from dcam_fast.service.answering import WrittenAnswer
from dcam_fast.service.errors import ServiceError
from dcam_fast.service.openai_api import Chat
from dcam_fast.service.schemas import ChatBody


def chat_of(**fields: Any) -> Chat:
    decode = SimpleNamespace(decode=lambda tokens: " ".join("abcdef"[int(token)] for token in tokens))
    service: Any = SimpleNamespace(explainer=SimpleNamespace(adapter=decode))
    return Chat(ChatBody.model_validate(chat(**fields)), service)


def written(text: str, *, is_complete: bool = False) -> WrittenAnswer:
    tokens = torch.arange(len(text.split()))
    return WrittenAnswer(text, len(tokens), is_complete, 5, 0.1, Trajectory(tokens, tokens, len(tokens)))


def test_it_goes_out_from_left_to_right() -> None:
    one = chat_of()
    parts = [one.delta(written(text)) for text in ("", "a", "a", "a b c", "a b c d")]
    assert parts == ["", "a", "", " b c", " d"]


def test_half_a_character_is_not_sent() -> None:
    one = chat_of()
    assert one.delta(written("a \ufffd")) == "a "
    assert one.delta(written("a 环")) == "环"


def test_the_beginning_of_a_stop_is_not_sent() -> None:
    one = chat_of(stop=["c d", ""])
    assert one.delta(written("a b c")) == "a b"
    assert one.delta(written("a b c e")) == " c"
    assert one.text(written("a b c d e")) == ("a b ", "stop")


def test_what_was_sent_is_not_taken_back() -> None:
    one = chat_of()
    assert one.delta(written("a b")) == "a b"
    assert one.delta(written("a c")) == "", "it may come back"
    with pytest.raises(ServiceError, match="must begin as streamed"):
        one.rest("a c")


def test_limits_and_why_an_answer_ends() -> None:
    whole = written("a b c", is_complete=True)
    assert chat_of().text(whole) == ("a b c", "stop")
    assert chat_of().text(written("a b c")) == ("a b c", "length")
    assert chat_of(max_tokens=2).text(whole) == ("a b", "length")
    assert chat_of(max_tokens=3).text(whole) == ("a b c", "stop")
    assert chat_of(max_tokens=2, stop="b").text(whole) == ("a ", "stop")
    assert chat_of(max_tokens=2).usage(whole) == {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}


@asynchronous
async def test_a_model_with_a_slash_in_its_name_is_found() -> None:
    explainer = FakeExplainer()
    explainer.adapter.name = "owner/model"
    async with running(explainer) as at:
        for path in ("/v1/models/owner/model", "/v1/models/owner%2Fmodel"):
            assert (await at.client.get(path)).json()["id"] == "owner/model"
        assert (await at.client.get("/v1/models/owner")).status_code == 404
