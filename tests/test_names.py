"""Names keep leading where they led first."""

import socket

import pytest

from probe.channel import Address
from probe.dialing import Names
from probe.errors import TransportError
from probe.hosts import address_class


@pytest.mark.parametrize(
    ("address", "whose"),
    [
        ("127.0.0.1", "loopback"),
        ("::1", "loopback"),
        ("::ffff:127.0.0.1", "loopback"),
        ("10.1.2.3", "private"),
        ("fd12::1", "private"),
        ("fe80::1%eth0", "private"),
        ("20.42.1.1", "public"),
        ("2603:1030::1", "public"),
    ],
)
def test_an_address_is_the_machines_a_virtual_networks_or_the_internets(address: str, whose: str) -> None:
    assert address_class(address) == whose


def test_a_name_that_suddenly_leads_elsewhere_gets_no_connection() -> None:
    led = ["20.42.1.1"]
    names = Names(lambda host, port: [Address(socket.AF_INET, (address, port)) for address in led])

    def ask() -> list[str]:
        names.forget("x.openai.azure.com", 443)
        return [str(one.sockaddr[0]) for one in names.addresses("x.openai.azure.com", 443)[0]]

    assert ask() == ["20.42.1.1"]
    led[:] = ["20.42.9.9", "40.1.1.1"]
    assert ask() == led
    for elsewhere in ("10.0.0.4", "127.0.0.1"):
        led[:] = ["20.42.1.1", elsewhere]
        with pytest.raises(TransportError, match=r"led to public addresses and now leads to (private|loopback) ones"):
            ask()
    led[:] = ["20.42.1.1"]
    assert ask() == led
