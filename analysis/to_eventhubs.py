"""Calls to an event hub: one event a call, which is its record as JSON, in batches as large as the hub takes.

Names. An event's message id is the call's (`call_id`); its body has the keys that the journal has.
Who.   Microsoft Entra, as the run's targets do without a key (HEADROOM_CREDENTIAL); a namespace on loopback is Azure's
       emulator, which has a key that everyone knows and no TLS.
"""

import logging
import os
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from azure.eventhub import EventData, EventDataBatch, EventHubProducerClient
from azure.eventhub.exceptions import EventHubError

from analysis.following import Chunk
from analysis.sending import NotTakenError, Taken, call_id
from probe import record
from probe.escaping import printable
from probe.hosts import is_loopback
from probe.identity import credential_of
from probe.journal import body_of
from probe.target import signing_in

_EMULATOR = "Endpoint=sb://{};SharedAccessKeyName=RootManageSharedAccessKey;SharedAccessKey={};{}"
# For a batch to be taken.
_SECONDS = 10.0
_KEY = "SAS_KEY_VALUE"


class EventHub:
    """`where` is NAMESPACE/HUB. Raises `SettingsError`."""

    def __init__(self, where: str, run: Path, process: str) -> None:
        # What they would log is said here once.
        for noisy in ("azure.eventhub", "azure.identity", "azure.core"):
            logging.getLogger(noisy).setLevel(logging.CRITICAL)
        self.files: tuple[str, ...] = (f"calls-{process}.jsonl",)
        self.name = f"the event hub {where}"
        self._client = _client(where)

    def take(self, chunk: Chunk) -> Taken:
        lines = chunk.data.removesuffix(b"\n").split(b"\n")
        events = [event for line in lines if (event := _event(line)) is not None]
        refused = 0
        try:
            batch = self._client.create_batch()
            for event in events:
                if _fits(batch, event):
                    continue
                if len(batch):
                    self._client.send_batch(batch, timeout=_SECONDS)
                    batch = self._client.create_batch()
                refused += not _fits(batch, event)
            if len(batch):
                self._client.send_batch(batch, timeout=_SECONDS)
        except EventHubError as error:
            raise NotTakenError(_reason(error)) from None
        return Taken(len(events) - refused, refused, len(lines) - len(events))

    def flush(self, *, at_end: bool) -> None:
        pass

    def close(self) -> None:
        self._client.close()


def _client(where: str) -> EventHubProducerClient:
    namespace, _, hub = where.partition("/")
    # To try again is `Sender`'s.
    settings: dict[str, Any] = {"eventhub_name": hub, "retry_total": 0, "auth_timeout": 10}
    if is_loopback(urlsplit(f"sb://{namespace}").hostname or ""):
        address = _EMULATOR.format(namespace, _KEY, "UseDevelopmentEmulator=true")
        return EventHubProducerClient.from_connection_string(address, **settings)
    identity, bundle = signing_in(os.environ)
    return EventHubProducerClient(
        namespace, credential=credential_of(identity, bundle), connection_verify=bundle, **settings
    )


def _event(line: bytes) -> EventData | None:
    """None for a line that is no record."""
    try:
        body = body_of(line)
        call = record.decode(body)
    except ValueError:
        return None
    event = EventData(body)
    event.content_type = "application/json"
    event.message_id = call_id(call)
    return event


def _fits(batch: EventDataBatch, event: EventData) -> bool:
    """Whether it was added."""
    try:
        batch.add(event)
    except ValueError:
        return False
    return True


def _reason(error: EventHubError) -> str:
    return printable(str(error.message).strip().partition("\n")[0])
