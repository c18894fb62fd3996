"""Waiting for a socket: the one thing that differs between a probe's process and one that runs thousands of calls.

`until` is all that the transport asks for. What is here waits for one socket at a time and holds up its thread; what
Locust's processes use shares one event loop among all their calls (`locustfiles/_hub.py`).
"""

import selectors
import time
from collections.abc import Callable
from typing import Protocol


class Waiting(Protocol):
    def until(self, fileno: int, write: bool, on_ready: Callable[[], bool], limit: int) -> bool:
        """Calls `on_ready` whenever the socket can be read (or written), until it returns True.

        False where `limit` (perf_counter_ns) passed first; a little before it is early enough. What `on_ready` raises
        is raised here.
        """


class OneAtATime:
    def until(self, fileno: int, write: bool, on_ready: Callable[[], bool], limit: int) -> bool:
        with selectors.DefaultSelector() as selector:
            selector.register(fileno, selectors.EVENT_WRITE if write else selectors.EVENT_READ)
            while (left := limit - time.perf_counter_ns()) > 0:
                if selector.select(left / 1e9) and on_ready():
                    return True
        return False
