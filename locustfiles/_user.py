"""The user that every scenario is made of: it observes a call, journals it, and counts it in Locust's tables.

A call's record is made whatever ends the call, also when Locust kills the user in the middle of it: `observe` returns
it and leaves the interrupt in `client.interrupt`, and nothing between the two can be interrupted (there is no switch to
another greenlet). Only then does the user end.
"""

from typing import Any

from locust import User
from locust.env import Environment
from locust.exception import StopUser

from locustfiles._arrivals import Arrival
from locustfiles._run import running, session
from probe.client import Client
from probe.journal import JournalError
from probe.prompts import Ask
from probe.record import ObservedCall
from probe.target import Target

_ANSWERED = {"ok", "ok_length", "filtered_output"}


class CallError(Exception):
    """What Locust's tables show of a call without an answer; no ids in it, because each text is a row of its own."""


class AzureOpenAIUser(User):
    """Subclasses give tasks that use `call` (closed model) or `dispatch` (open model)."""

    abstract = True

    def on_start(self) -> None:
        self.client: Client = running().client()

    def on_stop(self) -> None:
        self.client.close()

    def call(self, target: Target, ask: Ask) -> ObservedCall:
        return observe(self.environment, self.client, target, ask)

    def dispatch(self) -> None:
        """Sends this process's arrivals, each when it is due, until there are no more or the run stops."""
        load = running()
        assert load.arrivals is not None
        try:
            for arrival in load.arrivals:
                if load.wait_until(arrival.due):
                    break
                load.open_calls.spawn(self._send, arrival)
            load.open_calls.join()
        finally:
            # Nothing is open any more, unless Locust kills this user: then its calls end with it, each on record.
            load.open_calls.kill()
        if not load.stopping.is_set():
            session.arrivals_ended()
        raise StopUser

    def _send(self, arrival: Arrival) -> None:
        load = running()
        client = load.borrow()
        observe(self.environment, client, load.next_target(), arrival.ask, scheduled=arrival.due)
        load.give_back(client)


def observe(
    environment: Environment, client: Client, target: Target, ask: Ask, scheduled: float | None = None
) -> ObservedCall:
    """One call, on record. Raises `StopUser` where the record cannot be kept, and what interrupted the call."""
    load = running()
    call = client.observe(target, ask.prompt, stream=ask.stream, traffic=ask.traffic, scheduled=scheduled)
    try:
        load.append(call)
    except JournalError as error:
        session.fail(error)
        raise StopUser from None
    count(environment, call)
    if client.interrupt is not None:
        raise client.interrupt
    return call


def count(environment: Environment, call: ObservedCall) -> None:
    """One request in Locust's tables; the time to first token is a row beside it that adds nothing to the totals."""
    name = f"{call.target} {'stream' if call.request_stream else 'whole'}"
    environment.events.request.fire(
        request_type="chat",
        name=name,
        response_time=call.duration * 1000,
        response_length=call.body_size or 0,
        exception=None if call.outcome in _ANSWERED else CallError(_what(call)),
        context={},
    )
    if call.time_to_first_token is not None:
        entries: Any = environment.stats.entries
        entries[(name, "TTFT")].log(call.time_to_first_token * 1000, 0)


def _what(call: ObservedCall) -> str:
    parts = [call.outcome, call.throttle_kind, call.status_code and str(call.status_code)]
    return " ".join(part for part in parts if part)
