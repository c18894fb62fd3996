"""Request bodies, a JSON object a line, with the tokens that each will be billed for.

Flat.   A few lines at a time, in the order they came; nothing is kept.
Lines.  What came is passed on byte for byte, with `input_tokens` and, where it is null, `reason` added at its end. Of a
        line that is no JSON object there is nothing to add to: its number and the reason take its place.
"""

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import IO, Any

import msgspec

from probe.counting import Count, input_tokens

# Longer than any request the service takes, pictures and all.
LONGEST = 64 * 1024 * 1024
_THREADS = 2
# Lines in hand at a time.
_BATCH = 64
_BOM = b"\xef\xbb\xbf"


def count_lines(file: IO[bytes], models: Mapping[str, str]) -> Iterator[tuple[bytes, Count]]:
    """JSON without an end of line, and its count, for each line that is not blank.

    `models` gives the served model of a deployment's name. Raises `RanksUnavailableError`, `OSError`.
    """
    numbered = enumerate(_lines(file), 1)
    # Most of the time goes into tiktoken, which lets other threads run meanwhile.
    with ThreadPoolExecutor(_THREADS) as threads:
        while batch := list(islice(numbered, _BATCH)):
            yield from filter(None, threads.map(lambda one: _counted(one[0], one[1], models), batch))


def _lines(file: IO[bytes]) -> Iterator[bytes]:
    while line := file.readline(LONGEST + 1):
        yield line
        while len(line) > LONGEST and not line.endswith(b"\n"):
            line = file.readline(LONGEST + 1)


def _counted(number: int, line: bytes, models: Mapping[str, str]) -> tuple[bytes, Count] | None:
    text = (line.removeprefix(_BOM) if number == 1 else line).strip()
    if not text:
        return None
    if len(text) > LONGEST:
        return _foreign(number, f"is longer than {LONGEST:,} bytes")
    try:
        body = msgspec.json.decode(text)
    except (ValueError, RecursionError) as error:
        return _foreign(number, f"is no JSON: {error}")
    if not isinstance(body, dict):
        return _foreign(number, "is no JSON object")
    model = body.get("model")
    count = input_tokens({**body, "model": models.get(model, model) if isinstance(model, str) else model})
    return _extended(text, body, count), count


def _foreign(number: int, what: str) -> tuple[bytes, Count]:
    count = Count(reason=f"line {number} {what}")
    return msgspec.json.encode({"line": number, **_said(count)}), count


def _said(count: Count) -> dict[str, Any]:
    return {"input_tokens": count.tokens} | ({} if count.reason is None else {"reason": count.reason})


def _extended(text: bytes, body: Mapping[str, Any], count: Count) -> bytes:
    said = _said(count)
    if not body or not said.keys().isdisjoint(body):
        return msgspec.json.encode({**body, **said})
    return text[:-1].rstrip() + b"," + msgspec.json.encode(said)[1:]
