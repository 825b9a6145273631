"""The fields of requests. Unknown fields are errors: none is ignored in silence."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from dcam_fast.models.generation import Generation

MAX_STEPS = 4096
MAX_TOKENS = 8192
MAX_TARGETS = 512
SEED_LIMIT = 2**63

Name = Annotated[str, StringConstraints(max_length=100)]
Text = Annotated[str, StringConstraints(max_length=20_000)]
TokenId = Annotated[int, Field(ge=0, lt=2**31)]
Position = Annotated[int, Field(ge=0, lt=2**31)]
Temperature = Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1, le=MAX_STEPS)]
Seed = Annotated[int, Field(ge=0, lt=SEED_LIMIT)]


class Body(BaseModel):
    """What all requests share."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class GenerationFields(Body):
    """How the answer is generated; see `dcam_fast.Generation`."""

    steps: Count | None = None
    block_length: Count | None = None
    temperature: Temperature | None = None
    seed: Seed = 0

    def generation(self) -> Generation:
        """As the package has it."""
        return Generation(**self.model_dump())


class ContrastFields(Body):
    """Why the answer says `word` and not `instead`."""

    word: Text
    instead: Text


Targets = Literal["content", "all"] | Annotated[list[Text | Position | ContrastFields], Field(max_length=MAX_TARGETS)]


class ExplanationFields(Body):
    """What is explained, and how; see `dcam_fast.Explainer.explain`."""

    targets: Targets = "content"
    method: Name = "default"
    profile: Name | None = None
    scores: bool = True
    budget_ms: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    raw_maps: bool = False


class ExplanationBody(ExplanationFields):
    """`POST /v1/explanations` and `POST /v1/explanations/stream`.

    Attributes:
        image: a `data:` URL, base64, or a URL of a listed host. An upload has it as a file.
        prompt: the question; None: the model's default prompt.
        answer: the answer to explain; None: the model answers.
        tokens: the answer as token ids, instead of `answer`.
        steps: the denoising step of each of `tokens`.
        generation: how the model answers.
    """

    image: str
    prompt: Text | None = None
    answer: Text | None = None
    tokens: Annotated[list[TokenId], Field(min_length=1, max_length=MAX_TOKENS)] | None = None
    steps: Annotated[list[Position], Field(max_length=MAX_TOKENS)] | None = None
    generation: GenerationFields = GenerationFields()


class TextPart(Body):
    """Text of a message."""

    type: Literal["text"]
    text: Text


class ImageUrl(Body):
    """The image of a message."""

    url: str
    detail: Literal["auto", "low", "high"] = "auto"


class ImagePart(Body):
    """An image of a message."""

    type: Literal["image_url"]
    image_url: ImageUrl


class Message(Body):
    """The question about the image."""

    role: Literal["user"]
    content: Annotated[list[TextPart | ImagePart], Field(min_length=1, max_length=64)]
    name: Name | None = None


class StreamOptions(Body):
    """Options of a streamed answer."""

    include_usage: bool = False


class ChatBody(Body):
    """`POST /v1/chat/completions`. The messages are one question about one image."""

    model: Name
    messages: Annotated[list[Message], Field(min_length=1, max_length=1)]
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Temperature | None = None
    seed: Seed = 0
    stream: bool = False
    stream_options: StreamOptions | None = None
    stop: Text | Annotated[list[Text], Field(max_length=4)] | None = None
    n: Literal[1] = 1
    user: Name | None = None
    explain: ExplanationFields | None = None
