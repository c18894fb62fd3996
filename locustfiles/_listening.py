"""Where Locust listens: what is said where that is open to the network, and where it cannot."""

import os
import socket
import sys
from collections.abc import Iterator
from typing import Any

import psutil
from locust.env import Environment
from locust.exception import RPCError
from locust.runners import MasterRunner

from locustfiles._told import say
from probe.advice import EXIT_SETTINGS
from probe.hosts import is_loopback
from probe.target import SettingsError


def check_listening(parsed: Any) -> Iterator[str]:
    """A line for each door that is open to the network."""
    doors = {} if parsed.headless else {"the web UI, which asks nobody who they are,": parsed.web_host}
    if parsed.master or parsed.processes:
        doors["the master, which takes orders from anybody who connects,"] = parsed.master_bind_host
    for door, host in doors.items():
        if not is_loopback(host or "*"):
            yield f"{door} listens on {host or '*'} and not on this machine alone"


def check_port(parsed: Any) -> None:
    """Before the web UI takes it. Raises `SettingsError`."""
    host = parsed.web_host or ""
    try:
        socket.create_server((host, parsed.web_port)).close()
    except OSError as error:
        where, why = f"port {parsed.web_port} of {host or 'this machine'}", os.strerror(error.errno or 0)
        raise SettingsError(
            f"the web UI cannot listen on {where}: {why}; --web-port takes another, --headless none"
        ) from None


def refuse_a_port_that_no_master_gets() -> None:
    """From now on it is said in one line. Locust 2.47 does that for an older wording of ZeroMQ's only, and lets the
    error go on else."""
    make = Environment.create_master_runner

    def make_or_refuse(
        environment: Environment, master_bind_host: str = "*", master_bind_port: int = 5557
    ) -> MasterRunner:
        try:
            return make(environment, master_bind_host, master_bind_port)
        except RPCError as error:
            why = os.strerror(getattr(error.__context__, "errno", None) or 0)
            where = f"port {master_bind_port} of {'this machine' if master_bind_host == '*' else master_bind_host}"
            another = "--master-bind-port takes another (workers: --master-port), --master-bind-host another address"
            say(f"the master cannot listen on {where}: {why}; {another}")
            # Of `--processes`: they would look for their master there, and may find another run's.
            for child in psutil.Process().children():
                child.terminate()
            sys.exit(EXIT_SETTINGS)

    Environment.create_master_runner = make_or_refuse  # type: ignore[assignment, method-assign]
