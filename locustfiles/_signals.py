"""Ctrl-C, and the end of the terminal that a run was started from."""

import signal
from collections.abc import Callable

import gevent


def take_signals(on_ctrl_c: Callable[[], None], on_hanging_up: Callable[[], None]) -> None:
    """By default Ctrl-C is raised in whichever greenlet runs, which would end the call that it is in the middle of.

    A shell that starts us in the background has it ignored, and so it stays; so does `nohup` with the hanging up.
    """
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        gevent.signal_handler(signal.SIGINT, on_ctrl_c)
        # Then it is no greenlet's error to be printed: it goes on to the main one, where Locust acts on it.
        gevent.get_hub().NOT_ERROR += (KeyboardInterrupt,)
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        gevent.signal_handler(signal.SIGHUP, on_hanging_up)
