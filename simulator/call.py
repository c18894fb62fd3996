"""One request on the simulator's side: what is known of it by when, for the logs and the ledger."""

import time
from dataclasses import dataclass, field
from typing import Any

from simulator.service.latency import Drawn
from simulator.wire import new_id


@dataclass
class Call:
    """Times are nanoseconds of the monotonic clock but for `arrived_wall`; `charged` is what its limiter took.

    `outcome` is `cut` for a call whose client went away before the end.
    """

    resource: str
    method: str
    path: str
    request_id: str = field(default_factory=new_id)
    arrived_wall: int = field(default_factory=time.time_ns)
    arrived: int = field(default_factory=time.monotonic_ns)
    request_bytes: int = 0
    response_bytes: int = 0
    deployment: str | None = None
    api: str | None = None
    operation: str | None = None
    stream: bool | None = None
    principal: str | None = None
    status: int | None = None
    headers_at: int | None = None
    first_content_at: int | None = None
    last_at: int | None = None
    prompt_tokens: int | None = None
    cached_tokens: int | None = None
    completion_tokens: int | None = None
    charged: float | None = None
    utilization: float | None = None
    spilled_from: str | None = None
    # What was thrown at it; `drawn_faults` may come to nothing.
    faults: list[str] = field(default_factory=list)
    drawn_faults: list[str] = field(default_factory=list)
    # What a gateway did: the back ends it called, in turn, and what came of each.
    backends: list[str] = field(default_factory=list)
    drawn: Drawn | None = None
    outcome: str = "cut"

    def changed_by(self, faults: list[str]) -> None:
        self.faults += faults

    def ended_wall(self) -> int:
        return self.arrived_wall + (self.last_at or time.monotonic_ns()) - self.arrived

    def ledger(self) -> dict[str, Any]:
        """Its line: what is not known is left off. `due_us` is when each token was due, in
        microseconds after the arrival; of a reply in one piece only the last."""
        known = {name: value for name, value in vars(self).items() if value is not None and value != []}
        known.pop("drawn_faults", None)
        if self.drawn is not None:
            drawn = self.drawn
            known["drawn"] = {"prompt_filter": drawn.prompt_filter, "queue": drawn.queue, "engine": drawn.engine}
            due = drawn.due if self.stream else drawn.due[-1:]
            known["drawn"]["due_us"] = [int(at * 1e6) for at in due]
        return known
