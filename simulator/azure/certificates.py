"""TLS on loopback, vouched for by an authority that the simulator makes when it starts.

Azure's clients send no bearer token over plain HTTP, so what takes one has to speak TLS. The authority's key exists
only in memory; a client trusts it by its certificate's file.
"""

import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal

import trustme

_NAMES = ("127.0.0.1", "localhost")

# What is right or wrong with a server's certificate.
Kind = Literal["good", "expired", "wrong_host"]


class Certificates:
    """`file` is the authority's certificate, new with every instance."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.file = folder / "ca.pem"
        self._authority = trustme.CA(organization_name="Simulated authority")
        self._authority.cert_pem.write_to_path(self.file)

    def server_context(self, kind: Kind = "good") -> ssl.SSLContext:
        names = ("elsewhere.example",) if kind == "wrong_host" else _NAMES
        today = datetime.now(UTC)
        begins, ends = (today - timedelta(days=30), today - timedelta(days=1)) if kind == "expired" else (None, None)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._authority.issue_cert(*names, not_before=begins, not_after=ends).configure_cert(context)
        return context

    def client_context(self) -> ssl.SSLContext:
        """Trusts this authority and no other."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._authority.configure_trust(context)
        return context
