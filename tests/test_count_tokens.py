import io
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from analysis import counted
from analysis.counted import count_lines
from tests.commands import BIN, ROOT, environment

HELLO = {"model": "gpt-4o", "messages": [{"role": "user", "content": "hello world"}]}


def lines(text: str | bytes, **models: str) -> list[dict[str, Any]]:
    file = io.BytesIO(text if isinstance(text, bytes) else text.encode())
    return [json.loads(line) for line, _ in count_lines(file, models)]


def test_every_line_comes_out_in_order_with_its_count_or_its_number_and_a_reason() -> None:
    hello = json.dumps(HELLO)
    asked = f'{hello}\n\n{{"model": "gpt-4o", "mess\n[1]\n{json.dumps({**HELLO, "model": "chat"})}\n\xff\xfe\n{hello}'
    said = lines(asked)
    assert said[0] == said[-1] == {**HELLO, "input_tokens": 9}
    assert [line.get("input_tokens") for line in said] == [9, None, None, None, None, 9]
    assert said[1]["reason"].startswith("line 3 is no JSON")
    assert said[2] == {"line": 4, "input_tokens": None, "reason": "line 4 is no JSON object"}
    assert said[3] == {**HELLO, "model": "chat", "input_tokens": None, "reason": "no counting rule for model 'chat'"}


def test_a_line_keeps_its_own_spelling() -> None:
    spelt = '{ "model":"gpt-4o",  "top_p": 1e0, "messages":[{"role":"user","content":"h\\u0065llo world"}] }'
    ((line, _),) = count_lines(io.BytesIO(spelt.encode()), {})
    assert line.decode() == spelt.removesuffix(" }") + ',"input_tokens":9}'


def test_a_count_that_a_line_brought_along_is_replaced() -> None:
    assert lines(json.dumps({**HELLO, "input_tokens": 3})) == [{**HELLO, "input_tokens": 9}]
    assert lines("{}") == [{"input_tokens": None, "reason": "no messages and no input"}]


def test_what_is_no_request_is_not_counted_as_if_it_were_left_out() -> None:
    nameless = {key: value for key, value in HELLO.items() if key != "model"}
    odd = [{**HELLO, "tools": {"a": 1}}, {**HELLO, "functions": "f"}, {"model": "gpt-4o", "input": 5}, nameless]
    said = lines("\n".join(map(json.dumps, odd)))
    assert [line["reason"] for line in said] == [*["what should be a list is none"] * 3, "the request names no model"]


def test_a_deployments_name_stands_for_the_model_it_is_said_to_serve() -> None:
    (said,) = lines(json.dumps({**HELLO, "model": "chat"}), chat="gpt-4o")
    assert said == {**HELLO, "model": "chat", "input_tokens": 9}


def test_a_byte_order_mark_is_no_part_of_the_first_line() -> None:
    assert lines(b"\xef\xbb\xbf" + json.dumps(HELLO).encode())[0]["input_tokens"] == 9


def test_a_line_longer_than_any_request_is_passed_over_and_the_next_one_counts(monkeypatch: Any) -> None:
    monkeypatch.setattr(counted, "LONGEST", 200)
    said = lines("x" * 1000 + "\n" + json.dumps(HELLO))
    assert [line["input_tokens"] for line in said] == [None, 9]
    assert "longer than 200 bytes" in said[0]["reason"]


CALL = {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
PICTURE = {"type": "image_url", "image_url": {"url": "data:image/gif;base64,R0lGODlhAQABAAAAADs=", "detail": "low"}}
NODE = {
    "type": ["object", "null"],
    "required": ["a"],
    "properties": {"a": {"enum": [1], "title": "A"}, "b": {"$ref": "#"}},
}
WHOLE = {
    "messages": [
        {"role": "system", "content": "hello", "name": "s"},
        {"role": "user", "content": [{"type": "text", "text": "hello"}, PICTURE]},
        {"role": "assistant", "content": None, "refusal": "no", "tool_calls": [CALL, CALL]},
        {"role": "tool", "content": "1"},
    ],
    "tools": [{"type": "function", "function": {"name": "f", "description": "does", "parameters": NODE}}],
    "tool_choice": {"type": "function", "function": {"name": "f"}},
    "response_format": {"type": "json_schema", "json_schema": {"name": "A", "schema": NODE}},
}
ITEMS = {
    "input": [
        {"role": "user", "content": [{"type": "input_text", "text": "hello"}]},
        {"type": "function_call", "name": "f", "arguments": "{}"},
        {"type": "function_call_output", "output": "1"},
    ],
    "tools": [{"type": "function", "name": "f", "parameters": NODE}],
    "text": {"format": {"type": "json_schema", "name": "A", "schema": NODE}},
}


JUNK: list[Any] = [
    None,
    True,
    1,
    -1.5,
    10**30,
    "",
    "text",
    "required",
    [],
    [[1]],
    [None],
    {},
    {"a": {}},
    {"type": "object"},
]


def with_one_changed(value: Any, other: Any) -> Iterator[Any]:
    """Copies of `value`, each with `other` at another place in it."""
    yield other
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from ({**value, key: changed} for changed in with_one_changed(inner, other))
    elif isinstance(value, list):
        for at, inner in enumerate(value):
            yield from ([*value[:at], changed, *value[at + 1 :]] for changed in with_one_changed(inner, other))


@pytest.mark.parametrize("body", [WHOLE, ITEMS], ids=["chat", "responses"])
@pytest.mark.parametrize("model", ["gpt-4o", "gpt-5", "text-embedding-3-small"])
def test_a_body_with_anything_anywhere_ends_in_a_count_or_a_reason(body: Any, model: str) -> None:
    assert lines(json.dumps({**body, "model": "gpt-4o"}))[0]["input_tokens"]
    for other in JUNK:
        for changed in with_one_changed(body, other):
            (said,) = lines(json.dumps({**changed, "model": model} if isinstance(changed, dict) else changed))
            assert (said["input_tokens"] is None) == ("reason" in said)


def run(*arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    command = [str(BIN / "analysis"), "count-tokens", *arguments]
    return subprocess.run(command, input=stdin, capture_output=True, cwd=ROOT, env=environment(), timeout=60)


def test_the_command_reads_a_file_or_standard_input_and_keeps_data_and_talk_apart(tmp_path: Path) -> None:
    file = tmp_path / "bodies.jsonl"
    file.write_text(json.dumps({**HELLO, "model": "chat"}) + "\nnot json\n")
    from_file = run("--model-map", "chat=gpt-4o", str(file))
    piped = run("--model-map", "chat=gpt-4o", "-", stdin=file.read_bytes())
    assert from_file.returncode == piped.returncode == 0
    assert from_file.stdout == piped.stdout
    assert [json.loads(line)["input_tokens"] for line in from_file.stdout.splitlines()] == [9, None]
    assert from_file.stderr == b"analysis: 1 counted, 9 tokens in all; 1 with a reason\n"


def test_a_map_without_a_model_is_refused(tmp_path: Path) -> None:
    refused = run("--model-map", "chat", "-")
    assert refused.returncode == 2
    assert b"'chat' is not NAME=MODEL" in refused.stderr


def started(*arguments: str) -> subprocess.Popen[bytes]:
    """The command with pipes on both sides, whatever the shell that runs the tests has done about Ctrl-C."""
    return subprocess.Popen(
        [str(BIN / "analysis"), "count-tokens", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
    )


def test_a_reader_that_has_enough_ends_it_without_a_word(tmp_path: Path) -> None:
    file = tmp_path / "bodies.jsonl"
    file.write_text(f"{json.dumps(HELLO)}\n" * 5_000)
    with started(str(file)) as counting:
        assert counting.stdout is not None and counting.stderr is not None
        assert json.loads(counting.stdout.readline())["input_tokens"] == 9
        counting.stdout.close()
        assert (counting.stderr.read(), counting.wait(60)) == (b"", 141)


def test_ctrl_c_ends_it_in_one_line() -> None:
    with started("-") as counting:
        assert counting.stdin is not None and counting.stdout is not None and counting.stderr is not None
        counting.stdin.write(f"{json.dumps(HELLO)}\n".encode() * 500)
        counting.stdin.flush()
        assert counting.stdout.readline()
        counting.send_signal(signal.SIGINT)
        assert (counting.stderr.read(), counting.wait(60)) == (b"analysis: stopped\n", 130)


@pytest.mark.parametrize(
    ("content", "code", "out", "says"),
    [
        (b"", 0, 0, b"analysis: 0 counted, 0 tokens in all; 0 with a reason\n"),
        (b"\x7fELF\x00\xff", 0, 1, b"analysis: 0 counted, 0 tokens in all; 1 with a reason\n"),
        (None, 2, 0, b"No such file or directory\n"),
    ],
    ids=["empty", "foreign", "not there"],
)
def test_a_file_without_a_body_is_told_in_one_line(
    content: bytes | None, code: int, out: int, says: bytes, tmp_path: Path
) -> None:
    if content is not None:
        (tmp_path / "file").write_bytes(content)
    done = run(str(tmp_path / "file"))
    assert (done.returncode, len(done.stdout.splitlines()), len(done.stderr.splitlines())) == (code, out, 1)
    assert done.stderr.endswith(says)


def test_counting_imports_no_tables() -> None:
    heavy = "import sys, analysis.cli, analysis.counted; assert not {'pandas', 'duckdb', 'tiktoken'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", heavy], check=True, cwd=ROOT)
