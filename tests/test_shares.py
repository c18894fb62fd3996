import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from probe.record import LatencyCheckpoint
from probe.shares import Shares, call_shares, first_token_shares
from tests.test_render import a_call

SAMPLES = Path(__file__).parents[1].parent / "shared" / "fixtures" / "latency_checkpoint_samples.json"

# One of the recorded ones.
TOLD = LatencyCheckpoint(
    pre_inference_ms=129,
    engine_ttft_ms=27,
    engine_ttlt_ms=900,
    service_ttft_ms=421,
    service_ttlt_ms=1300,
    total_duration_ms=1180,
)


def a_stream(**changed: Any) -> Any:
    times = {"time_to_headers": 0.4, "time_to_first_chunk": 0.4, "time_to_first_token": 0.6, "duration": 1.5}
    return a_call(**{"request_stream": True, "connect": 0.05, "latency_checkpoint": TOLD, **times, **changed})


def milliseconds(shares: Shares | None) -> dict[str, int]:
    assert shares is not None
    return {share.part: round(share.seconds * 1000) for share in shares.parts}


def test_every_part_of_a_first_token_through_a_gateway_has_its_share() -> None:
    shares = first_token_shares(a_stream(gateway="apim"))
    assert milliseconds(shares) == {"network": 50, "gateway": 129, "filter": 129, "queue": 265, "engine": 27}


def test_a_direct_call_has_no_gateway_but_may_have_time_unaccounted_for() -> None:
    assert milliseconds(first_token_shares(a_stream()))["unaccounted"] == 129


def test_the_whole_call_has_the_generation_too() -> None:
    assert milliseconds(call_shares(a_stream())) == {
        "network": 50,
        "unaccounted": 150,
        "filter": 129,
        "queue": 265,
        "engine": 27,
        "generation": 879,
    }


@pytest.mark.parametrize(
    ("changed", "parts"),
    [
        ({"connect": None}, {"network and front end": 179, "filter": 129, "queue": 265, "engine": 27}),
        ({"connect": None, "gateway": "apim"}, {"network and gateway": 179, "filter": 129, "queue": 265, "engine": 27}),
        ({"latency_checkpoint": None}, {"network": 50, "front end and service": 550}),
        ({"latency_checkpoint": None, "gateway": "apim"}, {"network": 50, "gateway and service": 550}),
        ({"latency_checkpoint": None, "connect": None}, {}),
        ({"latency_checkpoint": LatencyCheckpoint(engine_ttft_ms=27)}, {"network": 50, "front end and service": 550}),
        (
            {"latency_checkpoint": LatencyCheckpoint(service_ttft_ms=421)},
            {"network": 50, "unaccounted": 129, "service": 421},
        ),
    ],
)
def test_what_is_missing_gives_fewer_parts_and_none_that_is_made_up(
    changed: dict[str, Any], parts: dict[str, int]
) -> None:
    assert milliseconds(first_token_shares(a_stream(**changed))) == parts


def test_timings_longer_than_the_clients_own_are_not_laid_over_them() -> None:
    shares = first_token_shares(a_stream(time_to_first_token=0.41, time_to_first_chunk=0.41))
    assert shares is not None and shares.parts == ()
    assert shares.note == "the service says it took 11 ms longer than the client saw: no shares"


def test_a_first_token_after_hidden_reasoning_is_not_divided() -> None:
    assert first_token_shares(a_stream(reasoning_tokens=64)) is None
    assert call_shares(a_stream(reasoning_tokens=64)) is not None


def test_a_call_without_a_reply_has_no_shares() -> None:
    call = a_call(outcome="dns", status_code=None, error_type="dns", duration=0.1)
    assert first_token_shares(call) is None and call_shares(call) is None


timing = st.none() | st.integers(0, 3000)
checkpoints = st.builds(
    LatencyCheckpoint, pre_inference_ms=timing, engine_ttft_ms=timing, service_ttft_ms=timing, service_ttlt_ms=timing
)


@given(checkpoints | st.none(), st.none() | st.floats(0, 1), st.floats(0, 3), st.sampled_from(["direct", "apim"]))
def test_the_parts_are_never_negative_and_add_up(
    told: LatencyCheckpoint | None, connect: float | None, first: float, gateway: str
) -> None:
    call = a_stream(
        latency_checkpoint=told,
        connect=connect,
        gateway=gateway,
        time_to_headers=first,
        time_to_first_chunk=first,
        time_to_first_token=first,
        duration=first + 1,
    )
    for shares in (first_token_shares(call), call_shares(call)):
        assert shares is not None
        assert all(share.seconds >= 0 for share in shares.parts)
        if shares.parts:
            assert sum(share.seconds for share in shares.parts) == pytest.approx(shares.whole, abs=0.004)


@pytest.mark.skipif(not SAMPLES.exists(), reason="the recorded timings are not on this machine")
def test_every_recorded_checkpoint_divides_into_filter_queue_and_engine() -> None:
    for sample in json.loads(SAMPLES.read_text()):
        told = LatencyCheckpoint(**{key: sample[key] for key in LatencyCheckpoint.__struct_fields__})
        first = sample["service_ttft_ms"] / 1000 + 0.1
        call = a_stream(
            latency_checkpoint=told,
            time_to_headers=first,
            time_to_first_chunk=first,
            time_to_first_token=first,
            duration=100.0,
        )
        parts = milliseconds(first_token_shares(call))
        assert parts["filter"] + parts["queue"] + parts["engine"] == sample["service_ttft_ms"]
        assert parts["queue"] > 0
