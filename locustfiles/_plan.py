"""What a run is about to send and what that may cost, said before anything is sent.

Answers are taken to be as long as they may be: the prompts ask for that. In the open model the number of calls is that
of the schedule; with random arrivals it is at most four standard deviations more. In the closed model it depends on the
service: `CALL_SECONDS` a call is taken for the expectation, and without a cap there is no most.
"""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from locustfiles._arrivals import read_schedule
from locustfiles._options import Options
from locustfiles._recorded import read_recorded
from probe.escaping import printable
from probe.prices import Price, read_prices
from probe.prompts import Size, TrafficClass
from probe.spending import dollars, price_of
from probe.target import SettingsError, Target

CALL_SECONDS = 5.0
_Z90 = 1.2815515655446004


class Expected(NamedTuple):
    """`most` calls is None where nothing bounds them. Tokens are the mean of a call."""

    calls: float | None
    most: float | None
    input_tokens: float
    output_tokens: float


def check_end(options: Options, seconds: float | None, ends: bool) -> None:
    """`ends`: by itself. Raises `SettingsError` for a run that would go on, and cost, until somebody stops it."""
    if seconds is None and not options.caps.any() and not ends:
        raise SettingsError(
            "a run against a real endpoint needs an end: give --run-time, --max-requests, --max-tokens or --max-cost"
        )


def expected(options: Options, users: int, seconds: float | None) -> Expected:
    """Raises `SettingsError`."""
    if options.trace is not None:
        rows = read_recorded(Path(options.trace), options.trace_seconds).rows
        sent = [row for row in rows if seconds is None or row.at / options.trace_speed < seconds]
        each = max(1, len(sent))
        tokens = sum(row.input_tokens for row in sent) / each, sum(row.output_tokens for row in sent) / each
        return Expected(len(sent), len(sent), *tokens)
    return Expected(*_calls(options, users, seconds), *mean_tokens(options.mix))


def mean_tokens(mix: Sequence[TrafficClass]) -> tuple[float, float]:
    """In and out, of a call of the mix."""
    weight = sum(one.weight for one in mix)
    return (
        sum(one.weight * _mean(one.input_tokens) for one in mix) / weight,
        sum(one.weight * _mean(one.output_tokens) for one in mix) / weight,
    )


def _calls(options: Options, users: int, seconds: float | None) -> tuple[float | None, float | None]:
    if options.schedule is not None:
        due = len([at for at in read_schedule(Path(options.schedule)) if seconds is None or at < seconds])
        return due, due
    if seconds is None:
        return None, None
    if options.rate is None:
        return max(users, users * seconds / CALL_SECONDS), None
    calls = options.rate * seconds
    return calls, calls + (4 * math.sqrt(calls) if options.arrivals == "poisson" else 1)


def streaming(options: Options) -> float:
    """The share of the calls that stream, 0 to 1."""
    if options.trace is None:
        return options.streaming
    return read_recorded(Path(options.trace), options.trace_seconds).streaming(options.stream_share)


def _mean(size: Size) -> float:
    """Of the log-normal."""
    sigma = math.log(size.p90 / size.median) / _Z90
    return size.median * math.exp(sigma**2 / 2)


def plan(
    options: Options, targets: list[Target], size: Expected, traffic: str, seconds: float | None, attempts: int
) -> Iterator[str]:
    """`attempts` is the most requests that a call can become. Raises `SettingsError`."""
    for target in targets:
        yield f"  to        {_shown(target)}"
    yield f"  traffic   {traffic}; {streaming(options):.0%} streaming"
    yield f"  for       {'as long as it takes' if seconds is None else f'{seconds:g} s'}; {_number(size)}"
    yield f"  tokens    about {size.input_tokens:,.0f} in and up to {size.output_tokens:,.0f} out a call"
    priced = [price_of(target, read_prices(options.prices_file)) for target in targets]
    yield f"  cost      {_cost(options, size, [price for price, _ in priced], attempts)}"
    for (price, known), target in zip(priced, targets, strict=True):
        yield f"            {_basis(price, known, target)}"
    yield f"  caps      {', '.join(f'{flag} {text}' for flag, text in options.caps.named().items()) or 'none'}"
    yield f"  results   {printable(options.results)}"


def _shown(target: Target) -> str:
    return printable(f"{target.name}: {target.endpoint}, deployment {target.deployment} ({target.gateway})")


def traffic(options: Options, users: int) -> str:
    if options.rate is not None:
        return f"{options.rate:g} calls a second"
    given = options.trace or options.schedule
    return f"{users} users, each calling again at once" if given is None else f"calls when {printable(given)} says"


def _number(size: Expected) -> str:
    if size.calls is None:
        return "as many calls as are answered" if size.most is None else f"at most {size.most:,.0f} calls"
    if size.most is None:
        return f"about {size.calls:,.0f} calls, if one takes {CALL_SECONDS:g} s (closed model)"
    return f"about {size.calls:,.0f} calls"


def _cost(options: Options, size: Expected, prices: list[Price], attempts: int) -> str:
    """Calls go to the targets in turn, so their prices count alike."""
    each = sum(price.cost(size.input_tokens, size.output_tokens) for price in prices) / len(prices)
    dearest = max(max(price.input, price.output) for price in prices) / 1e6
    limits = [options.caps.cost]
    if options.caps.tokens is not None:
        limits.append(options.caps.tokens * dearest)
    most = [calls for calls in (size.most and size.most * attempts, options.caps.requests) if calls is not None]
    if most:
        limits.append(min(most) * each)
    known = [limit for limit in limits if limit is not None]
    calls = [number for number in (size.calls, options.caps.requests) if number is not None]
    first = f"{dollars(each * 1000)} for 1,000 calls"
    if calls:
        about = min([min(calls) * each, *known])
        first = f"about {dollars(about)}"
    return f"{first}; {f'at most {dollars(min(known))}' if known else 'no most: give --max-cost for one'}"


def _basis(price: Price, known: bool, target: Target) -> str:
    rates = f"${price.input:g} in, ${price.output:g} out for a million tokens"
    if known:
        return f"{price.model}: {rates} (list price of {price.as_of})"
    name = printable(target.deployment)
    return f"no price is known for {name}: taken to cost the dearest that is, {rates}; --prices names a file of yours"
