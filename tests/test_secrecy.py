"""What may be written down of a reply, and what of it must not be."""

import base64
import io
import logging
import sys
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from probe import secrecy
from probe.secrecy import SECRET, guard, kept, kept_text, mark, masked, remember, scrubbed, scrubbed_bytes, shown_url

KEY = "made-up/key+of=84&characters-0123456789"


@pytest.fixture(autouse=True)
def _nothing_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(secrecy, "_known", secrecy._Known())


def value_of(name: str, value: str) -> str:
    ((_, shown),) = kept(((name, value),))
    return shown


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("x-ratelimit-remaining-tokens", "149984"),
        ("x-ratelimit-reset-tokens", "1m30.5s"),
        ("x-ratelimit-reset-tokens", "6ms"),
        ("tokens-consumed-by-the-team", "-1"),
        ("sampling-token-len", ""),
        ("x-ratelimit-key", "gpt-4o"),
        ("apim-debug-authorization-expired", "true"),
        ("www-authenticate", 'Bearer realm="", authorization_uri="https://login.microsoftonline.com/x", error=invalid'),
        ("location", "https://other.example/path?api-version=2024-10-21"),
        ("x-odd", "a\x1b[2Jb\x80"),
    ],
)
def test_what_tells_and_lets_nobody_act_is_kept_as_received(name: str, value: str) -> None:
    assert value_of(name, value) == value


@pytest.mark.parametrize("name", ["Set-Cookie", "set-cookie2", "Authorization-Info", "x-access-token", "X-Api-Key"])
def test_a_value_that_lets_its_holder_act_is_replaced_by_a_mark_that_tells_it_from_others(name: str) -> None:
    shown = value_of(name, "canary=1; Path=/")
    assert shown == mark("canary=1; Path=/") != mark("canary=2; Path=/")
    assert shown.startswith("sha256:") and len(shown) == 19


def test_a_cookie_is_hidden_also_where_it_is_a_number() -> None:
    assert value_of("set-cookie", "123") == mark("123")


@pytest.mark.parametrize(
    "value",
    [
        'Bearer realm="r", nonce="canary"',
        "Negotiate canary==",
        "Negotiate canary=",
        "NTLM canary",
        'Bearer claims="canary", error="e"',
        'Bearer realm="canary',
    ],
)
def test_of_a_challenge_only_harmless_parameters_are_kept(value: str) -> None:
    assert "canary" not in value_of("WWW-Authenticate", value)


@pytest.mark.parametrize(
    "url",
    [
        "https://user:canary@host.example/x",
        "https://host.example/x?sv=1&sig=canary%3D&se=2",
        "https://host.example/x?subscription-key=canary",
        "https://host.example/?access_token=canary#x",
    ],
)
def test_addresses_lose_their_credentials_in_whatever_header_they_come(url: str) -> None:
    assert "canary" not in value_of("apim-trace-location", url) + value_of("location", url) + shown_url(url)
    assert "host.example" in shown_url(url)


@given(before=st.text(max_size=5), after=st.text(max_size=5))
def test_a_known_secret_is_found_in_every_form_and_at_every_place(before: str, after: str) -> None:
    remember(KEY)
    text = f"{before}{KEY}{after}"
    for form in (text, quote(text, safe="")):
        assert KEY not in scrubbed(form) and quote(KEY, safe="") not in scrubbed(form) and SECRET in scrubbed(form)
    encoded = base64.b64encode(text.encode()).decode()
    assert SECRET in scrubbed(encoded)
    left = max(map(len, scrubbed(encoded).replace(SECRET, " ").split()), default=0)
    # What is left of it are at most the characters that it shares with its neighbours.
    assert left <= max(len(base64.b64encode(part.encode())) for part in (before, after)) + 4


def test_headers_and_bodies_that_echo_a_known_secret_do_not_keep_it() -> None:
    remember(KEY)
    assert kept((("x-debug", f"got {KEY}"), (KEY, "1"))) == (("x-debug", f"got {SECRET}"), (SECRET, "1"))
    assert scrubbed_bytes(f"Incorrect API key provided: {KEY}.\xff".encode("latin-1")).endswith(b"[secret].\xff")


def test_a_head_that_could_not_be_read_is_kept_line_by_line_without_its_cookies() -> None:
    head = "HTTP/1.1 OK\r\nx-ms-region: East US\r\nSet-Cookie: session=abc; Path=/\nno colon\x00\x15"
    assert kept_text(head) == head.replace("session=abc; Path=/", mark("session=abc; Path=/"))


@given(st.text(st.characters(max_codepoint=255, exclude_characters=":=@?")))
def test_text_that_holds_nothing_secret_is_kept_as_it_came(text: str) -> None:
    assert kept_text(text) == text


def test_a_secret_that_is_short_would_be_found_in_ordinary_words_and_is_not_looked_for() -> None:
    remember("key")
    assert scrubbed("no key") == "no key"


def test_old_tokens_are_forgotten_when_others_have_followed() -> None:
    for number in range(20):
        remember(f"made-up-token-{number:02}", passing=True)
    assert scrubbed("made-up-token-00 made-up-token-19") == f"made-up-token-00 {SECRET}"


def test_of_a_body_that_a_user_gave_only_numbers_and_known_words_are_shown() -> None:
    given_body = {"temperature": 0, "reasoning": {"effort": "low"}, "user": "canary", "stop": ["canary"]}
    assert masked(given_body) == {"temperature": 0, "reasoning": {"effort": "low"}, "user": "***", "stop": ["***"]}


def test_logs_and_their_tracebacks_are_scrubbed_whoever_writes_them(monkeypatch: pytest.MonkeyPatch) -> None:
    remember(KEY)
    before, written = logging.getLogRecordFactory(), io.StringIO()
    monkeypatch.setattr("sys.excepthook", sys.excepthook)
    logger = logging.Logger("made.up")
    logger.addHandler(logging.StreamHandler(written))
    try:
        guard()
        logger.warning("with %s", KEY)
        try:
            raise ValueError(f"about {KEY}")
        except ValueError:
            logger.exception("failed")
        logger.warning("%d", "no number")
    finally:
        logging.setLogRecordFactory(before)
    assert KEY not in written.getvalue()
    assert "ValueError: about [secret]" in written.getvalue()
