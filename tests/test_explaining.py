"""What refusals mean, on the sheet and in the line of advice."""

from typing import get_args

import pytest

from probe.advice import advice
from probe.explaining import THROTTLED
from probe.record import ThrottleKind
from probe.target import Target
from tests.test_render import a_call, seen

TARGET = Target(name="west", endpoint="http://127.0.0.1:1", deployment="d", api_version="v1", api_key="made-up")


@pytest.mark.parametrize("kind", get_args(ThrottleKind))
def test_each_kind_of_throttling_has_its_meaning_on_the_sheet_and_in_the_advice(kind: ThrottleKind) -> None:
    call = a_call(status_code=429, outcome="throttled", error_type="429", throttle_kind=kind)
    assert THROTTLED[kind] in " ".join(seen(call).split())
    assert (advice(call, TARGET) or "").endswith(THROTTLED[kind])


def test_a_gateways_reason_is_explained() -> None:
    headers = (("ErrorSource", "forward-request"), ("ErrorReason", "Timeout"))
    call = a_call(status_code=500, outcome="gateway_error", error_type="500", headers=headers)
    assert "did not answer in the time that forward-request gives it" in " ".join(seen(call).split())
