"""What the probe asks: a target as it is configured, changed by what the command line or the interactive probe says."""

import msgspec

from probe.prompts import Prompt, numbered
from probe.target import SettingsError, Target


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """`deployment` is None for the target's own, `prompt` (a text) for a numbered one of `input_tokens`, `stream` for a
    call of either kind."""

    deployment: str | None = None
    prompt: str | None = None
    input_tokens: int = 32
    max_tokens: int = 32
    stream: bool | None = None
    headers: tuple[tuple[str, str], ...] = ()

    def of(self, target: Target) -> Target:
        """The target that is asked. Raises `SettingsError`."""
        return msgspec.structs.replace(
            target,
            deployment=target.deployment if self.deployment is None else self.deployment,
            extra_headers={**target.extra_headers, **dict(self.headers)},
        )

    def what(self) -> Prompt:
        if self.prompt is None:
            return numbered(1, self.input_tokens, self.max_tokens)
        # Not numbered, so not to be built again: its size is not planned but counted by the service.
        return Prompt("given", ({"role": "user", "content": self.prompt},), 0, self.max_tokens)

    def streams(self) -> tuple[bool, ...]:
        return (True, False) if self.stream is None else (self.stream,)


def header(text: str) -> tuple[str, str]:
    """`NAME: VALUE`, as curl takes it. Raises `SettingsError`."""
    name, colon, value = text.partition(":")
    if not colon or not name.strip():
        raise SettingsError(f"{text!r} is no header; give it as 'NAME: VALUE'")
    return name.strip(), value.strip()
