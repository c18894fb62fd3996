"""What sending a run on while it is on costs the process that measures: its own CPU seconds a call, with and without.

    python -m bench.sending

The sender is a process of its own, whose CPU is not counted; it is said beside it.
"""

import subprocess
import tempfile
from pathlib import Path
from statistics import median

import psutil

from tests.collectors import collecting
from tests.commands import BIN, environment
from tests.runs import load_of, openai_shaped, results_in
from tests.wire import answers, serving

SECONDS, RATE, ROUNDS = 8, 100, 3


def microseconds_a_call(url: str, **more: str) -> tuple[float, float]:
    """Of the measuring process, and of those that it started."""
    with tempfile.TemporaryDirectory() as folder:
        settings = results_in(Path(folder), url, HEADROOM_RATE=str(RATE), **more)
        command = [str(BIN / "locust"), "--headless", "--run-time", f"{SECONDS}s"]
        process = psutil.Popen(command, env=environment(settings), stderr=subprocess.DEVNULL)
        own = others = 0.0
        while process.poll() is None:
            try:
                own = sum(process.cpu_times()[:2])
                others = max(others, sum(sum(child.cpu_times()[:2]) for child in process.children()))
                process.wait(0.2)
            except (psutil.Error, subprocess.TimeoutExpired):
                continue
        calls = len(load_of(Path(folder)))
    return own / calls * 1e6, others / calls * 1e6


def main() -> None:
    with serving(answers(openai_shaped())) as server, collecting() as collector:
        without, sending, senders = [], [], []
        for _ in range(ROUNDS):
            without.append(microseconds_a_call(server.url)[0])
            own, other = microseconds_a_call(server.url, HEADROOM_SEND_OTLP=collector.url)
            sending.append(own)
            senders.append(other)
    share = median(sending) / median(without) - 1
    print(f"measuring process: {median(without):,.0f} us of CPU a call alone, {median(sending):,.0f} with --send-otlp")
    print(f"  {share:+.1%} (at most +5%); the sender itself {median(senders):,.0f} us a call, at lower priority")


if __name__ == "__main__":
    main()
