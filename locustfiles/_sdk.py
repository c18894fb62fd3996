"""The user that calls as an application does: through the official `openai` SDK, with its retries.

Its calls go to a file of their own, and in Locust's tables they are of the type "application". Like the measuring
user's they are on record whatever ends them (see `_user`); their client waits as everything under Locust does.

Importing this module takes the SDK's second of CPU, so only scenarios with such users do.
"""

from http import HTTPStatus
from typing import Any

from locust.env import Environment
from locust.exception import StopUser

from locustfiles._course import course
from locustfiles._load import Load
from locustfiles._run import running
from locustfiles._tables import row_name
from locustfiles._user import AzureOpenAIUser, NotSent, note, reserve
from locustfiles._watch import refused, watch_attempts
from probe.application import ApplicationCall
from probe.journal import JournalError
from probe.prompts import Ask
from probe.sdk import SDKClient, dropped
from probe.spending import Ledger, Reservation
from probe.target import Target


class ApplicationError(Exception):
    """What Locust's tables show of a call that raised; no ids in it, because each text is a row of its own."""


class SDKUser(AzureOpenAIUser):
    """Subclasses give tasks that use `ask` (closed model) or `dispatch` (open model)."""

    abstract = True

    def on_start(self) -> None:
        load = running()
        self.sdk = self._new_client(load)
        for target in load.targets:
            self.sdk.prepare(target)
        self._idle: list[SDKClient] = []
        self._at_its_end.callback(self._close)

    def _close(self) -> None:
        for client in (self.sdk, *self._idle):
            client.close()

    def ask(self, target: Target, ask: Ask) -> ApplicationCall:
        """One call of the closed model. After one that raised the user pauses, or it would hammer on.

        Raises `StopUser` where a cap on spending is reached.
        """
        reservation = reserve(running(), target, ask)
        if reservation is None:
            raise StopUser
        call = observe(self.environment, self.sdk, target, ask, reservation)
        if not call.succeeded:
            self._told_to_stop.wait(running().pause)
        return call

    def _drop(self, load: Load, target: Target, ask: Ask, due: float, why: NotSent) -> None:
        call = dropped(target, ask.prompt, stream=ask.stream, traffic=ask.traffic, scheduled=due, why=why)
        keep(self.environment, load, call)

    def _send(self, load: Load, target: Target, ask: Ask, reservation: Reservation, due: float) -> None:
        client = self._idle.pop() if self._idle else self._new_client(load)
        try:
            observe(self.environment, client, target, ask, reservation, scheduled=due)
        finally:
            self._idle.append(client)

    def _new_client(self, load: Load) -> SDKClient:
        options = load.options
        return SDKClient(
            run_began=load.began, token=load.token, timeout=options.call_timeout, max_retries=options.sdk_retries
        )


def observe(
    environment: Environment,
    client: SDKClient,
    target: Target,
    ask: Ask,
    reservation: Reservation,
    scheduled: float | None = None,
) -> ApplicationCall:
    """One call, on record. Raises `StopUser` where the record cannot be kept, and what interrupted the call."""
    load = running()
    reserved = [reservation]

    def may_retry() -> bool:
        if (another := reserve(load, target, ask)) is not None:
            reserved.append(another)
        return another is not None

    seq = note(load, target, ask, scheduled, application=True)
    call = client.observe(
        target, ask.prompt, stream=ask.stream, traffic=ask.traffic, scheduled=scheduled, may_retry=may_retry
    )
    settle(load.ledger, reserved, call)
    keep(environment, load, call, seq)
    watch_attempts(call, client.none_left)
    if call.status_code == HTTPStatus.UNAUTHORIZED:
        refused(target, client.bearer)
    if client.interrupt is not None:
        raise client.interrupt
    return call


def settle(ledger: Ledger, reserved: list[Reservation], call: ApplicationCall) -> None:
    """An attempt each. Only the last one's answer came to the application, with its usage."""
    made = list(zip(reserved, call.attempts, strict=False))
    for reservation, attempt in made[:-1]:
        ledger.settle(reservation, attempt.status_code, None, None)
    for reservation, attempt in made[-1:]:
        ledger.settle(reservation, attempt.status_code, call.input_tokens, call.output_tokens, call.cached_tokens)


def keep(environment: Environment, load: Load, call: ApplicationCall, seq: int | None = None) -> None:
    """Raises `StopUser` where the journal cannot be written, which stops the whole run."""
    try:
        load.append(call, seq)
    except JournalError as error:
        course.fail(str(error))
        raise StopUser from None
    count(environment, call)


def count(environment: Environment, call: ApplicationCall) -> None:
    name = row_name(call.target, call.request_stream)
    environment.events.request.fire(
        request_type="application",
        name=name,
        response_time=None if call.duration is None else call.duration * 1000,
        response_length=0,
        exception=None if call.succeeded else ApplicationError(call.error_type),
        context={},
    )
    if call.time_to_first_token is not None:
        entries: Any = environment.stats.entries
        entries[(name, "app TTFT")].log(call.time_to_first_token * 1000, 0)
