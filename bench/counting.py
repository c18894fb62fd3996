"""How fast request bodies are counted, beside litellm's and langchain's counters: `python -m bench.counting`.

The bodies are a production conversation's mix of sizes, one in four with a tool and a call of it in the history. The
peers are no part of the product, nor of its tests' lock: they run in an environment of their own, where there is one.
Their figure is a ratio, of the same bodies in the same minutes. Which counter is right is for tests/test_counting.py.
"""

import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from probe.prompts import CONVERSATION, numbered

REQUESTS = 100_000
OF_THE_PEERS = 1_000
PEERS = Path(".venv-bench/bin/python")
_HOW = "python3 -m venv .venv-bench && .venv-bench/bin/pip install litellm langchain-openai"

_CALL = {"id": "1", "type": "function", "function": {"name": "look_up", "arguments": '{"word": "time", "most": 3}'}}
_FIELDS = {"word": {"type": "string", "description": "What to look for."}, "most": {"type": "integer", "minimum": 1}}
_TOOL = {
    "type": "function",
    "function": {
        "name": "look_up",
        "description": "Looks a word up.",
        "parameters": {"type": "object", "properties": _FIELDS, "required": ["word"]},
    },
}

_COUNT_ALL = """
import json, os, sys, time
os.environ.setdefault("OPENAI_API_KEY", "none")
lines = [json.loads(line) for line in open(sys.argv[1])]
if sys.argv[2] == "litellm":
    import litellm
    def count(body):
        return litellm.token_counter(body["model"], messages=body["messages"], tools=body.get("tools"))
else:
    from langchain_core.messages.utils import convert_to_messages
    from langchain_openai import ChatOpenAI
    model = ChatOpenAI(model="gpt-4o")
    def count(body):
        return model.get_num_tokens_from_messages(convert_to_messages(body["messages"]), tools=body.get("tools"))
count(lines[0])
began = time.perf_counter()
for line in lines:
    count(line)
print(time.perf_counter() - began)
"""


def bodies(requests: int) -> Iterator[dict[str, Any]]:
    rng = random.Random(1)
    weights = [one.weight for one in CONVERSATION]
    for number in range(requests):
        (drawn,) = rng.choices(CONVERSATION, weights)
        asked: dict[str, Any] = {
            "model": "gpt-4o",
            "messages": [*numbered(number, drawn.input_tokens.draw(rng), 1).messages],
        }
        if number % 4 == 0:
            asked["tools"] = [_TOOL]
            asked["messages"] += [
                {"role": "assistant", "content": None, "tool_calls": [_CALL]},
                {"role": "tool", "tool_call_id": "1", "content": "found"},
            ]
        yield asked


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        whole, few = Path(folder, "whole.jsonl"), Path(folder, "few.jsonl")
        for path, requests in ((whole, REQUESTS), (few, OF_THE_PEERS)):
            with path.open("w") as file:
                file.writelines(json.dumps(body) + "\n" for body in bodies(requests))
        seconds, tokens = _ours(whole)
        most = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
        size = whole.stat().st_size / 1e6
        asked = f"{REQUESTS:,} requests ({size:,.0f} MB, {tokens:,} tokens)"
        print(f"count-tokens: {asked} in {seconds:.1f} s, {most:.0f} MiB")
        if not PEERS.exists():
            print(f"no peers beside it; to have them: {_HOW}")
            return
        ours = seconds / REQUESTS
        # The ranks that ours unpacked, so that a peer needs no network either.
        ranks = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "headroom").expanduser()
        environment = {**os.environ, "TIKTOKEN_CACHE_DIR": str(ranks)}
        for peer in ("litellm", "langchain"):
            command = [str(PEERS), "-c", _COUNT_ALL, str(few), peer]
            done = subprocess.run(command, capture_output=True, text=True, env=environment)
            if done.returncode:
                print(f"{peer}: not measured ({done.stderr.strip().splitlines()[-1]})")
            else:
                print(f"{peer}: {float(done.stdout) / OF_THE_PEERS / ours:.1f} times as long for each request")


def _ours(file: Path) -> tuple[float, int]:
    """From the command's start to its end, all included."""
    began = time.perf_counter()
    command = [sys.executable, "-m", "analysis", "count-tokens", str(file)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as counting:
        assert counting.stdout is not None
        tokens = sum(json.loads(line)["input_tokens"] for line in counting.stdout)
    return time.perf_counter() - began, tokens


if __name__ == "__main__":
    main()
