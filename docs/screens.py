"""The pictures in the documents (`make screens`), of real calls to the simulator on an idle machine: the screens of the
probe as SVG, the report and the tab of the web UI as a browser shows them."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory

from PIL import Image
from rich.console import Console

from probe.calling import client_for
from probe.prompts import numbered
from probe.render import render_call
from probe.side_by_side import show_sides
from probe.simulated import Simulator

_HERE = Path(__file__).parent
_BROWSER = shutil.which("chromium")
# A gateway with something to find out.
_CONFIG = """
[resources.eastus2]
region = "East US 2"
[resources.eastus2.deployments."gpt-4.1-mini"]
model = "gpt-4.1-mini-2025-04-14"
[gateways.apim]
backends = [{ resource = "eastus2" }]
buffer_response = true
strip_headers = ["x-ms-region", "x-ratelimit-remaining-tokens"]
"""


def draw(name: str, title: str, width: int, show: Callable[[Console], None]) -> None:
    console = Console(record=True, width=width, force_terminal=True, color_system="truecolor", file=StringIO())
    show(console)
    # Without a name of its own rich draws one from the content, and every picture would change.
    console.save_svg(str(_HERE / f"{name}.svg"), title=title, unique_id=name)


def browse(name: str, url: str, width: int, height: int, *flags: str) -> None:
    picture = _HERE / f"{name}.png"
    with TemporaryDirectory() as profile:
        headless = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", f"--user-data-dir={profile}"]
        size = [f"--window-size={width},{height}", "--virtual-time-budget=6000", f"--screenshot={picture}"]
        subprocess.run([str(_BROWSER), *headless, *size, *flags, url], check=True, stderr=subprocess.DEVNULL)
    # Few colours are in it, and a checkout should stay small.
    Image.open(picture).convert("RGB").quantize(64).save(picture, optimize=True)


def web_and_report(folder: Path) -> None:
    """A run of half a minute that is more than the simulator's limits allow, while it is on and when it has ended."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    settings = {"HEADROOM_SIMULATE": "1", "HEADROOM_RESULTS": str(folder), "HEADROOM_RATE": "8"}
    traffic = ["--mix", str(_HERE.parent / "locustfiles" / "traffic.toml")]
    run = subprocess.Popen(
        [sys.executable, "-m", "locust", "--web-port", str(port), "--autostart", "--run-time", "40s",
         "--autoquit", "1", *traffic],
        env=os.environ | settings, cwd=_HERE.parent, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        time.sleep(35)
        browse("web", f"http://127.0.0.1:{port}/?tab=headroom", 1280, 1000)
        run.wait()
    finally:
        run.send_signal(signal.SIGTERM)
    (made,) = folder.glob("*/run.json")
    subprocess.run(
        [sys.executable, "-m", "analysis", "report", str(made.parent)], check=True, stdout=subprocess.DEVNULL
    )
    page = (made.parent / "report.html").as_uri()
    browse("report", page, 1040, 1900)
    browse("report-dark", page, 1040, 1900, "--blink-settings=preferredColorScheme=0")


def main() -> None:
    with TemporaryDirectory() as folder:
        if _BROWSER is None:
            print("no chromium: the pictures of the report and of the web UI stay as they are", file=sys.stderr)
        else:
            web_and_report(Path(folder))
    with TemporaryDirectory() as folder, ExitStack() as stack:
        config = Path(folder, "simulator.toml")
        config.write_text(_CONFIG)
        os.environ["HEADROOM_SIMULATOR_CONFIG"] = str(config)
        simulator = Simulator(Path(folder))
        stack.callback(simulator.stop)
        direct, apim = simulator.targets["eastus2"], simulator.targets["apim"]
        client = client_for([direct, apim], 60.0, stack)
        prompt = numbered(1, 32, 32)
        call = client.observe(direct, prompt, stream=True)
        draw("probe", "probe", 150, lambda console: render_call(call, console))
        kinds = (True,) * 6 + (False,) * 2
        pairs = [[client.observe(one, prompt, stream=stream) for one in (direct, apim)] for stream in kinds]
        ours, theirs = ([pair[side] for pair in pairs] for side in (0, 1))
        draw("versus", "probe eastus2 --vs apim", 110, lambda console: show_sides(ours, theirs, 6, console))


if __name__ == "__main__":
    main()
