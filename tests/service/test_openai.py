"""The official Python client of OpenAI's API, against a service on a port of this machine."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import pytest
from PIL import Image
from serving import data_url, listening

from dcam_fast import Explainer, sample_image

openai = pytest.importorskip("openai", reason="the client openai is not installed")

KEY = "a key"
PROMPT = "describe the image"


@pytest.fixture(scope="module")
def explainer() -> Explainer:
    return Explainer(Explainer.from_pretrained("tiny").adapter, encodings=2)


@pytest.fixture(scope="module")
def client(explainer: Explainer) -> Iterator[Any]:
    with listening(explainer, api_key=KEY) as url, openai.OpenAI(base_url=f"{url}/v1", api_key=KEY) as client:
        yield client


@pytest.fixture(scope="module")
def answer(explainer: Explainer) -> str:
    return explainer.explain(sample_image(), PROMPT, []).answer


def messages() -> list[dict[str, Any]]:
    buffer = io.BytesIO()
    Image.fromarray(sample_image()).save(buffer, "png")
    image = {"type": "image_url", "image_url": {"url": data_url(buffer.getvalue())}}
    return [{"role": "user", "content": [{"type": "text", "text": PROMPT}, image]}]


def create(client: Any, **options: Any) -> Any:
    return client.chat.completions.create(model="tiny", messages=messages(), **options)


def test_models(client: Any) -> None:
    assert [model.id for model in client.models.list()] == ["tiny"]
    assert client.models.retrieve("tiny").owned_by == "dcam_fast"


def test_a_completion(client: Any, answer: str) -> None:
    completion = create(client, temperature=0, seed=1)
    (choice,) = completion.choices
    assert (choice.message.content, choice.finish_reason) == (answer, "stop")
    assert completion.usage.total_tokens == completion.usage.prompt_tokens + completion.usage.completion_tokens
    assert completion.usage.prompt_tokens > 256, "16 x 16 cells and the prompt"
    assert "explanation" not in completion.model_extra


def test_a_completion_with_an_explanation(client: Any, explainer: Explainer, answer: str) -> None:
    completion = create(client, extra_body={"explain": {"targets": ["circle"], "method": "grad_cam"}})
    assert completion.choices[0].message.content == answer
    record = completion.model_extra["explanation"]
    assert [target["text"] for target in record["targets"]] == ["circle"]
    assert record["provenance"]["method"] == "grad_cam"
    expected = explainer.explain(sample_image(), PROMPT, ["circle"], method="grad_cam")
    assert record["targets"][0]["groundedness"] == pytest.approx(expected.targets[0].groundedness)


def test_a_streamed_completion(client: Any, answer: str) -> None:
    chunks = list(create(client, stream=True, stream_options={"include_usage": True}))
    assert chunks[0].choices[0].delta.role == "assistant"
    parts = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    assert "".join(parts) == answer
    assert len([part for part in parts if part]) > 1, "it goes out in parts"
    reasons = [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices]
    assert reasons == [None] * (len(reasons) - 1) + ["stop"]
    assert chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens == create(client).usage.completion_tokens
    assert len({chunk.id for chunk in chunks}) == 1


def test_a_streamed_completion_with_an_explanation(client: Any, answer: str) -> None:
    chunks = list(create(client, stream=True, extra_body={"explain": {"targets": ["circle"]}}))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == answer
    (record,) = [chunk.model_extra["explanation"] for chunk in chunks if "explanation" in chunk.model_extra]
    assert [target["text"] for target in record["targets"]] == ["circle"]
    assert record["answer"] == answer


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(
    ("options", "cut", "reason"),
    [
        ({"stop": "ring"}, lambda text: text[: text.index("ring")], "stop"),
        ({"stop": ["nothing", ","]}, lambda text: text[: text.index(",")], "stop"),
        ({"max_tokens": 3}, lambda text: " ".join(text.split()[:3]), "length"),
        ({"max_completion_tokens": 1, "max_tokens": 3}, lambda text: text.split()[0], "length"),
    ],
)
def test_answers_within_limits(
    client: Any, answer: str, options: dict[str, Any], cut: Any, reason: str, streamed: bool
) -> None:
    if streamed:
        chunks = [chunk.choices[0] for chunk in create(client, stream=True, **options)]
        found, ended = "".join(chunk.delta.content or "" for chunk in chunks), chunks[-1].finish_reason
    else:
        choice = create(client, **options).choices[0]
        found, ended = choice.message.content, choice.finish_reason
    assert (found, ended) == (cut(answer), reason)


def test_errors_are_those_of_the_client(client: Any) -> None:
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="other", messages=messages())
    with pytest.raises(openai.UnprocessableEntityError) as caught:
        create(client, extra_body={"explain": {"targets": ["elephant"]}})
    assert caught.value.param == "target"
    with pytest.raises(openai.UnprocessableEntityError):
        create(client, n=2)
    with pytest.raises(openai.AuthenticationError):
        client.with_options(api_key="another").models.list()


def test_an_error_in_a_stream_is_raised(client: Any) -> None:
    stream = create(client, stream=True, extra_body={"explain": {"targets": ["elephant"]}})
    with pytest.raises(openai.APIError, match="elephant"):
        list(stream)
