"""The pictures of the probe's screens in the documents (`make screens`): real calls to the simulator, drawn as SVG."""

import os
from collections.abc import Callable
from contextlib import ExitStack
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.console import Console

from probe.calling import client_for
from probe.prompts import numbered
from probe.render import render_call
from probe.side_by_side import show_sides
from probe.simulated import Simulator

_HERE = Path(__file__).parent
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


def main() -> None:
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
