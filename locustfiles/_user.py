"""The user that every scenario is made of: it observes a call, journals it, and counts it in Locust's tables.

A call's record is made whatever ends the call, also when Locust kills the user in the middle of it: `observe` returns
it and leaves the interrupt in `client.interrupt`, and nothing between the two can be interrupted (there is no switch to
another greenlet). Only then does the user end.
"""

import time
from contextlib import ExitStack
from typing import Any, Literal

from gevent import GreenletExit
from gevent.event import Event
from gevent.pool import Group
from locust import User
from locust.env import Environment
from locust.exception import StopUser

from locustfiles._arrivals import Arrival
from locustfiles._caps import cap_reached
from locustfiles._course import course
from locustfiles._load import Load
from locustfiles._run import running
from locustfiles._tables import ErrorTexts, normalised, row_name
from locustfiles._watch import met_bug, refused, watch
from probe.client import Client, broken, dropped
from probe.journal import JournalError
from probe.prompts import Ask
from probe.record import ObservedCall
from probe.spending import Reservation
from probe.target import Target

NotSent = Literal["dropped_not_sent", "budget_stop"]

_ANSWERED = {"ok", "ok_length", "filtered_output"}


class CallError(Exception):
    """What Locust's tables show of a call without an answer."""


_errors = ErrorTexts()


class AzureOpenAIUser(User):
    """Subclasses give tasks that use `call` (closed model) or `dispatch` (open model)."""

    abstract = True

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        self._told_to_stop = Event()
        self._at_its_end = ExitStack()

    def on_start(self) -> None:
        self.client: Client = running().client()
        self._at_its_end.callback(self.client.close)

    def stop(self, force: bool = False) -> bool:
        killed = super().stop(force)
        self._told_to_stop.set()
        return bool(killed)

    def on_stop(self) -> None:
        self._at_its_end.close()

    def call(self, target: Target, ask: Ask) -> ObservedCall:
        """One call of the closed model. After one without an answer the user pauses, or it would hammer on.

        Raises `StopUser` where a cap on spending is reached.
        """
        reservation = reserve(running(), target, ask)
        if reservation is None:
            raise StopUser
        call = observe(self.environment, self.client, target, ask, reservation)
        if call.outcome not in _ANSWERED:
            self._told_to_stop.wait(running().pause)
        return call

    def dispatch(self) -> None:
        """Sends this process's arrivals, each when it is due, until the user is told to stop; users share them."""
        load = running()
        calls = Group()
        try:
            while (arrival := load.next_arrival()) is not None:
                if self._told_to_stop.wait(load.until(arrival.due)):
                    load.put_back(arrival)
                    break
                if load.slots.acquire(blocking=False):
                    calls.spawn(self._make, load, arrival)
                else:
                    self._drop_all(load, arrival)
            calls.join()
            if not load.in_hand and not self._told_to_stop.is_set():
                course.all_sent()
            self._told_to_stop.wait()
        except GreenletExit:
            # Locust's patience is at an end: the open calls end too, each on record.
            calls.kill()
            raise

    def take_rounds(self) -> None:
        """The closed model of a scenario that has arrivals: each is made when the user's last one has ended."""
        load = running()
        while not self._told_to_stop.is_set() and (arrival := load.next_arrival()) is not None:
            try:
                for ask, named in arrival.calls:
                    if not self._told_to_stop.is_set():
                        self.call(named or load.next_target(), ask)
            finally:
                load.in_hand -= 1
        if not load.in_hand and not self._told_to_stop.is_set():
            course.all_sent()
        self._told_to_stop.wait()

    def _make(self, load: Load, arrival: Arrival) -> None:
        """The first call was due with the arrival, each further one when the one before it has ended."""
        due = arrival.due
        try:
            for number, (ask, named) in enumerate(arrival.calls):
                if number and self._told_to_stop.is_set():
                    break
                target = named or load.next_target()
                load.tally["scheduled"] += 1
                reservation = reserve(load, target, ask)
                if reservation is None:
                    self._drop(load, target, ask, due, "budget_stop")
                    break
                self._send(load, target, ask, reservation, due)
                due = load.now()
        except StopUser:
            # The journal cannot be written, which stops the whole run.
            pass
        finally:
            load.in_hand -= 1
            load.slots.release()

    def _drop_all(self, load: Load, arrival: Arrival) -> None:
        load.in_hand -= 1
        for ask, named in arrival.calls:
            load.tally["scheduled"] += 1
            self._drop(load, named or load.next_target(), ask, arrival.due, "dropped_not_sent")

    def _drop(self, load: Load, target: Target, ask: Ask, due: float, why: NotSent) -> None:
        about: Any = {"stream": ask.stream, "traffic": ask.traffic, "round": ask.round}
        keep(self.environment, load, dropped(target, ask.prompt, **about, scheduled=due, why=why))

    def _send(self, load: Load, target: Target, ask: Ask, reservation: Reservation, due: float) -> None:
        """Raises `StopUser`."""
        client = load.borrow()
        try:
            observe(self.environment, client, target, ask, reservation, scheduled=due)
        except StopUser:
            client.close()
            raise
        load.give_back(client)


def reserve(load: Load, target: Target, ask: Ask) -> Reservation | None:
    """What every call needs before it is made. None where a cap on spending is reached, which ends the run."""
    reservation = load.ledger.reserve(target, ask.prompt)
    if reservation is None:
        cap_reached(load)
    return reservation


def observe(
    environment: Environment,
    client: Client,
    target: Target,
    ask: Ask,
    reservation: Reservation,
    scheduled: float | None = None,
) -> ObservedCall:
    """One call, on record. Raises `StopUser` where the record cannot be kept, and what interrupted the call."""
    load = running()
    seq = note(load, target, ask, scheduled)
    about: Any = {"stream": ask.stream, "traffic": ask.traffic, "scheduled": scheduled, "round": ask.round}
    began = time.time_ns(), time.perf_counter_ns()
    try:
        call = client.observe(target, ask.prompt, **about)
    except Exception as bug:
        # Nothing else may be lost for it: neither the call nor the run.
        met_bug(bug)
        # Half a reply may be waiting there.
        client.close()
        call = broken(target, ask.prompt, **about, began=began, error=bug)
    load.ledger.settle(reservation, call.status_code, call.input_tokens, call.output_tokens, call.cached_tokens)
    keep(environment, load, call, seq)
    watch(load, call)
    if call.outcome == "auth":
        refused(target, client.bearer)
    if client.interrupt is not None:
        raise client.interrupt
    return call


def note(load: Load, target: Target, ask: Ask, scheduled: float | None, *, application: bool = False) -> int:
    """A call about to be sent. Raises `StopUser` where the journal cannot be written, which stops the whole run."""
    try:
        return load.note(target, ask, scheduled, application=application)
    except JournalError as error:
        course.fail(str(error))
        raise StopUser from None


def keep(environment: Environment, load: Load, call: ObservedCall, seq: int | None = None) -> None:
    """Raises `StopUser` where the journal cannot be written, which stops the whole run."""
    try:
        load.append(call, seq)
    except JournalError as error:
        course.fail(str(error))
        raise StopUser from None
    count(environment, call)


def count(environment: Environment, call: ObservedCall) -> None:
    """One request in Locust's tables; the time to first token is a row beside it that adds nothing to the totals."""
    name = row_name(call.target, call.request_stream)
    environment.events.request.fire(
        request_type="chat",
        name=name,
        response_time=None if call.duration is None else call.duration * 1000,
        response_length=call.body_size or 0,
        exception=None if call.outcome in _ANSWERED else CallError(_what(call)),
        context={},
    )
    if call.time_to_first_token is not None:
        entries: Any = environment.stats.entries
        entries[(name, "TTFT")].log(call.time_to_first_token * 1000, 0)


def _what(call: ObservedCall) -> str:
    """With the service's own word for it, where it has one."""
    status = None if call.status_code is None else str(call.status_code)
    code = call.error_type if call.outcome == "internal" or (status and call.error_type != status) else None
    return _errors.text(call.outcome, call.throttle_kind, status, normalised(code or ""))
