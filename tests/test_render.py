import io
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from probe.headers import GROUPS
from probe.record import Headers, LatencyCheckpoint, ObservedCall
from probe.render import printable, render_call

RECORDED = Path(__file__).parents[1].parent / "shared" / "fixtures" / "real_headers.jsonl"

SGR = re.compile(r"\x1b\[[0-9;]*m")
DANGEROUS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def a_call(**changed: Any) -> ObservedCall:
    plain: dict[str, Any] = {
        "target": "west",
        "gateway": "direct",
        "server_address": "contoso.openai.azure.com",
        "server_port": 443,
        "start_time_unix_nano": 1_780_491_942_123_456_789,
        "operation": "chat",
        "request_model": "chat",
        "request_stream": False,
        "outcome": "ok",
        "status_code": 200,
        "duration": 0.5,
    }
    return ObservedCall(**{**plain, **changed})


def on_screen(call: ObservedCall, width: int = 80, **console: Any) -> str:
    """The text as a colour terminal gets it."""
    options = {"force_terminal": True, "color_system": "truecolor", "_environ": {}, **console}
    screen = io.StringIO()
    render_call(call, Console(file=screen, width=width, **options))
    return screen.getvalue()


def seen(call: ObservedCall, width: int = 80) -> str:
    return SGR.sub("", on_screen(call, width))


STREAMED = a_call(
    request_stream=True,
    request_max_tokens=400,
    headers=(
        ("x-contoso", ""),
        ("X-RateLimit-Remaining-Tokens", "249988"),
        ("x-ms-region", "East US 2"),
        ("azureml-served-by-cluster", "hyena-westus3-02"),
        ("x-ms-served-model", "gpt-4o-2024-11-20"),
    ),
    connect=0.1,
    tls=0.2,
    time_to_headers=0.5,
    time_to_first_chunk=0.6,
    time_to_first_token=0.7,
    duration=1.7,
    input_tokens=1020,
    cached_tokens=512,
    output_tokens=129,
    finish_reasons=("stop",),
    latency_checkpoint=LatencyCheckpoint(engine_ttft_ms=301, total_duration_ms=1600),
)


def test_a_streamed_call_reads_like_this_on_a_narrow_screen() -> None:
    assert seen(STREAMED).splitlines() == [
        "west · 200 · ok · East US 2, model in westus3 · gpt-4o-2024-11-20",
        "streaming · direct · deployment chat · contoso.openai.azure.com:443",
        "2026-06-03 13:05:42 UTC",
        "",
        "headroom",
        "  tokens         249,988 left",
        "",
        "timing, ms since the request was issued; the connection came before",
        "  tcp               100.0  ━━━",
        "  tls               200.0     ━━━━━",
        "  headers           500.0          ━━━━━━━━━━━━",
        "  first event       600.0                      ━━━",
        "  first token       700.0                         ━━━",
        "  last byte       1,700.0                            ━━━━━━━━━━━━━━━━━━━━━━━━━",
        "",
        "where the time went, ms to the first token (~ inferred)",
        "  network              ~    100.0  14%  ━━━━━━",
        "  front end and service~    600.0  86%        ━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━",
        "",
        "where the time went, ms to the last byte (~ inferred)",
        "  network              ~    100.0   6%  ━━",
        "  front end and service~  1,600.0  94%    ━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━",
        "  not divided further: the service gave too few timings of its own",
        "",
        "tokens",
        "  billed     input 1,020 (512 cached) · output 129 · max_tokens 400",
        "  finish stop",
        "",
        "the service's own timings, ms",
        "  engine ttft 301 · total duration 1,600",
        "",
        "limits",
        "  X-RateLimit-Remaining-Tokens  249988",
        "    249,988 tokens · Left, by rough estimate; answers seem not to be deducted",
        "",
        "routing and region",
        "  x-ms-region                   East US 2",
        "    Region of the resource, not necessarily where the model ran",
        "  azureml-served-by-cluster     hyena-westus3-02",
        "    serving region westus3 · Cluster that ran the model",
        "",
        "model",
        "  x-ms-served-model             gpt-4o-2024-11-20",
        "    The model snapshot that answered; the reply's `model` can be less exact",
        "",
        "unknown",
        "  x-contoso                     (empty)",
        "    unknown",
    ]


THROTTLED = a_call(
    gateway="apim",
    outcome="throttled",
    throttle_kind="apim",
    status_code=429,
    error_type="429",
    error_message="Rate limit is exceeded.\nTry again in 45 seconds.",
    warnings=("body_cut",),
    headers=(("Retry-After", "45"), ("ErrorSource", "llm-token-limit")),
    connection_reused=True,
    time_to_headers=0.025,
    duration=0.025,
)


def test_a_throttled_call_reads_like_this_on_a_wide_screen() -> None:
    assert seen(THROTTLED, 150).splitlines() == [
        "west · 429 · throttled (apim) · retry after 45 s",
        "not streaming · through API Management · deployment chat · contoso.openai.azure.com:443"
        " · 2026-06-03 13:05:42 UTC",
        "",
        "error",
        "  429 · Rate limit is exceeded.\\x0aTry again in 45 seconds. · body_cut",
        "  a limit of the gateway itself, which the service never saw: wait, or look at its rate and token limits",
        "",
        "timing, ms since the request was issued; on an open connection",
        "  headers            25.0  " + 100 * "━",
        "  last byte          25.0  " + 99 * " " + "━",
        "",
        "limits",
        "  Retry-After  45               45 s · Wait before the next try; set by the service or by APIM",
        "",
        "gateway",
        "  ErrorSource  llm-token-limit  Which policy or pipeline step of API Management failed",
    ]


def test_a_call_without_a_reply_still_reads() -> None:
    call = a_call(outcome="dns", status_code=None, error_type="dns", error_message="no such host", duration=0.0)
    shown = seen(call).splitlines()
    assert shown[0] == "west · no status · dns"
    assert "  dns · no such host" in shown


def test_a_region_that_two_headers_agree_on_is_named_once() -> None:
    headers = (("x-ms-region", "West US 3"), ("azureml-served-by-cluster", "hyena-westus3-02"))
    assert seen(a_call(headers=headers)).startswith("west · 200 · ok · West US 3\n")


def columns(shown: str) -> tuple[str, str]:
    """All header names, and all header values, each with what was folded put together again.

    Finds the columns by a header "x-mark: @@@". Meanings below a header begin in the fifth column, where a name that
    goes on from the line above cannot, because names hold no spaces and begin in the third.
    """
    mark = next(line for line in shown.splitlines() if line.startswith("  x-mark"))
    value = mark.index("@@@")
    end = mark.index("unknown") - 2 if "unknown" in mark else None
    below = re.compile(r" {4}\S")
    rows = [row for row in shown.splitlines() if row.startswith("  ") and not below.match(row)]
    names = "".join(row[2:value].rstrip() + (" " if len(row[2:value].rstrip()) < value - 4 else "") for row in rows)
    return names, "".join(row[value:end] for row in rows)


def first_group(shown: str) -> int:
    return min(shown.index(f"\n{group}\n") for group in GROUPS if f"\n{group}\n" in shown)


def recorded_headers() -> Iterable[Headers]:
    for line in RECORDED.read_text().splitlines():
        # Some recordings hold null where a value was taken out.
        yield tuple((name, value) for name, value in json.loads(line)["headers"].items() if value is not None)
    for whole in json.loads(RECORDED.with_name("header_sets.json").read_text()):
        yield tuple((header["name"], header["value"]) for header in whole["headers"] if header["value"])


@pytest.mark.skipif(not RECORDED.exists(), reason="the recorded headers are not on this machine")
@pytest.mark.parametrize("width", [80, 200])
def test_no_header_ever_recorded_is_lost(width: int) -> None:
    for headers in recorded_headers():
        shown = seen(a_call(headers=(*headers, ("x-mark", "@@@"))), width)
        sheet = shown[first_group(shown) :]
        names, values = columns(sheet)
        for name, value in headers:
            assert name in names
            assert value in values


anything = st.text(st.characters(codec="latin-1") | st.characters() | st.sampled_from("\x1b\x9b\u202e\u2066\r\x07"))


@given(st.lists(st.tuples(anything, anything)), anything, st.sampled_from([40, 80, 200]))
def test_nothing_a_server_sends_reaches_the_terminal_as_a_control(
    headers: list[tuple[str, str]], text: str, width: int
) -> None:
    call = a_call(target=text or "t", error_type=text, error_message=text, response_model=text, headers=tuple(headers))
    shown = seen(call, width)
    assert not DANGEROUS.search(shown)
    assert all(cell_len(line) <= width for line in shown.split("\n"))


def test_markup_in_a_value_is_text() -> None:
    assert "[red]:boom:[/red]" in seen(a_call(headers=(("x-contoso", "[red]:boom:[/red]"),)))


def test_an_escape_names_the_character() -> None:
    assert printable("a\x1b\x9b\u202e\U000e0001é") == r"a\x1b\x9b\u202e\U000e0001é"


def test_repeated_headers_are_all_shown() -> None:
    shown = seen(a_call(headers=(("x-ms-region", "East US"), ("x-ms-region", "West US"))))
    assert shown.index("  x-ms-region  East US") < shown.index("  x-ms-region  West US")


def test_a_terminal_gets_colour_unless_it_asks_for_none() -> None:
    assert SGR.search(on_screen(STREAMED))
    assert "\x1b" not in on_screen(STREAMED, no_color=True)


def test_a_pipe_gets_no_colour() -> None:
    assert "\x1b" not in on_screen(STREAMED, force_terminal=None, color_system="auto")


def test_an_output_that_is_not_utf_gets_ascii() -> None:
    raw = io.BytesIO()
    written = io.TextIOWrapper(raw, encoding="ascii")
    render_call(a_call(headers=(("x-ms-region", "Zürich"),)), Console(file=written, width=80, _environ={}))
    written.flush()
    shown = raw.getvalue().decode("ascii")
    assert "west - 200 - ok - Z\\xfcrich" in shown
    assert "  last byte         500.0  ####" in shown


COMPLETE = LatencyCheckpoint(pre_inference_ms=60, engine_ttft_ms=50, service_ttft_ms=250, service_ttlt_ms=900)


def test_the_services_own_times_are_laid_over_the_clients() -> None:
    call = a_call(
        gateway="apim",
        request_stream=True,
        connect=0.02,
        time_to_headers=0.3,
        time_to_first_token=0.4,
        duration=1.1,
        latency_checkpoint=COMPLETE,
    )
    shown = seen(call).splitlines()
    begin = shown.index("where the time went, ms to the first token (~ inferred)")
    assert [line[:39].split() for line in shown[begin + 1 : begin + 6]] == [
        ["network", "~", "20.0", "5%"],
        ["gateway", "~", "130.0", "33%"],
        ["filter", "60.0", "15%"],
        ["queue", "~", "140.0", "35%"],
        ["engine", "50.0", "12%"],
    ]


def test_each_limit_is_a_bar_of_what_is_left() -> None:
    headers = (
        ("x-ratelimit-limit-requests", "120"),
        ("x-ratelimit-remaining-requests", "30"),
        ("x-ratelimit-renewalperiod-requests", "60"),
        ("x-ratelimit-remaining-tokens", "-1"),
        ("azure-openai-deployment-utilization", "112.5%"),
    )
    shown = seen(a_call(headers=headers)).splitlines()
    begin = shown.index("headroom")
    assert shown[begin + 1 : begin + 4] == [
        "  utilisation    ━━━━━━━━━━━━━━━━━━━━  112.5% used",
        "  requests       ━━━━━───────────────  30 of 120 left, renewed over 60 s",
        "",
    ]


def test_tokens_counted_estimated_and_billed_are_three_numbers() -> None:
    call = a_call(
        prompt_id="32-1",
        input_tokens=33,
        response_model="gpt-4o-2024-11-20",
        headers=(
            ("x-ratelimit-limit-tokens", "1000"),
            ("x-ratelimit-remaining-tokens", "969"),
            ("consumed-tokens", "41"),
        ),
    )
    shown = [" ".join(line.split()) for line in seen(call).splitlines()]
    begin = shown.index("tokens")
    assert shown[begin + 1 : begin + 4] == [
        "counted input 32",
        "estimated gateway 41 · limiter 31 in use after this call",
        "billed input 33",
    ]


def test_of_a_second_call_those_headers_are_shown_that_differ() -> None:
    above = a_call(headers=(("x-ms-region", "East US"), ("x-request-id", "1"), ("transfer-encoding", "chunked")))
    below = a_call(headers=(("x-ms-region", "East US"), ("x-request-id", "2"), ("content-length", "5")))
    screen = io.StringIO()
    render_call(below, Console(file=screen, width=80, _environ={}), above=above)
    shown = screen.getvalue()
    assert "x-request-id    2" in shown and "content-length  5" in shown and "x-ms-region" not in shown
    assert shown.endswith("1 headers as in the call above; not here: transfer-encoding\n")


def test_of_a_second_call_that_got_no_headers_none_are_compared() -> None:
    screen = io.StringIO()
    render_call(a_call(headers=()), Console(file=screen, width=80, _environ={}), above=a_call(headers=()))
    assert "as in the call above" not in screen.getvalue()


@pytest.mark.parametrize("width", [40, 60, 70])
def test_on_a_very_narrow_screen_bars_give_way_to_their_numbers(width: int) -> None:
    headers = (("x-ratelimit-limit-tokens", "50000"), ("x-ratelimit-remaining-tokens", "49970"))
    renewal = (("x-ratelimit-renewalperiod-tokens", "60"),)
    call = msgspec.structs.replace(STREAMED, headers=headers + renewal, latency_checkpoint=COMPLETE)
    shown = seen(call, width).splitlines()
    assert max(map(cell_len, shown)) <= width
    assert "49,970 of 50,000 left, renewed over 60 s" in " ".join(" ".join(shown).split())
    assert any(line.startswith("  queue") and "140.0" in line for line in shown)
