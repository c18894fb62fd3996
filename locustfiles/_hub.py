"""How a process of thousands of calls waits for their sockets: on gevent's own event loop, without a greenlet's help.

A greenlet that reads until its reply is whole is woken for every event of a stream, which costs more than the event
itself. Here the loop calls the reader, and the greenlet sleeps until its call has ended.
"""

from collections.abc import Callable
from time import perf_counter_ns
from typing import Any

from gevent.hub import Waiter, get_hub

_READ, _WRITE = 1, 2


class HubWaiting:
    """See `probe.waiting.Waiting`."""

    def until(self, fileno: int, write: bool, on_ready: Callable[[], bool], limit: int) -> bool:
        hub = get_hub()
        waiter: Any = Waiter(hub)

        def ready() -> None:
            try:
                if not on_ready():
                    return
            # It belongs to the call that waits, whatever it is; here it would end up in the loop's own log.
            except BaseException as error:
                io.stop()
                hub.loop.run_callback(waiter.throw, error)
            else:
                io.stop()
                # Not at once: other calls' sockets are waiting to be read, this one's record is not.
                hub.loop.run_callback(waiter.switch, True)

        io = hub.loop.io(fileno, _WRITE if write else _READ)
        timer = hub.loop.timer(max(0.0, (limit - perf_counter_ns()) / 1e9))
        try:
            io.start(ready)
            timer.start(waiter.switch, False, update=True)
            return bool(waiter.get())
        finally:
            io.stop()
            io.close()
            timer.stop()
            timer.close()
