"""What a model said, before a surface (chat completions, Responses, ...) gives it its shape."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

FinishReason = Literal["stop", "length", "tool_calls", "content_filter"]

# When an event of a stream goes out: with the token of that number (hidden reasoning tokens are numbered first, the
# visible ones follow), or, for this number, as soon as the prompt has passed its filter.
PROMPT_FILTERED = -1


class ToolCall(NamedTuple):
    """`arguments` are the pieces, a token each, of a JSON object."""

    id: str
    name: str
    arguments: Sequence[str]


class Answer(NamedTuple):
    """`created` is in Unix seconds. `pieces` are the visible text, a token each; empty where tools are called.

    `cached_tokens` are among the prompt's, `reasoning_tokens` come before and besides the visible ones, `unseen_tokens`
    are billed and never sent.
    """

    created: int
    model: str
    pieces: Sequence[str]
    finish_reason: FinishReason
    prompt_tokens: int
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    tool_calls: Sequence[ToolCall] = ()
    unseen_tokens: int = 0

    @property
    def visible_tokens(self) -> int:
        return len(self.pieces) + sum(len(call.arguments) for call in self.tool_calls)

    @property
    def sent_tokens(self) -> int:
        return self.reasoning_tokens + self.visible_tokens

    @property
    def completion_tokens(self) -> int:
        return self.sent_tokens + self.unseen_tokens


class Event(NamedTuple):
    """One server-sent event, whole and encoded. `token` says when (see `PROMPT_FILTERED`)."""

    token: int
    data: bytes
