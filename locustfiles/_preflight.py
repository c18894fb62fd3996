"""Before a run: the settings are read, the plan is told, and every target is checked with one small call.

Whatever is wrong with a setting or a target ends in one line and an exit code (`probe.advice`) before there is a run.
"""

import os
import sys
import time
from pathlib import Path
from typing import Any

from gevent.select import select

from analysis.destinations import check as check_destination
from locustfiles._load import PREFLIGHT
from locustfiles._options import Options, choose, find, read_options
from locustfiles._plan import check_end, plan
from locustfiles._scenario import Scenario
from locustfiles._told import say
from probe.advice import EXIT_DISK, EXIT_OK, EXIT_SETTINGS, EXIT_THROTTLED, advice, exit_code
from probe.client import Client
from probe.escaping import printable
from probe.hosts import UNVERIFIED, red
from probe.identity import sign_in
from probe.journal import JournalError, check_results
from probe.prices import Price, read_prices
from probe.prompts import numbered
from probe.record import ObservedCall
from probe.simulated import Simulator
from probe.spending import Ledger, Spent, ask_to_send, is_remote, most_tokens, price_of
from probe.target import SettingsError, Target

# What the SDK does by itself.
DEFAULT_RETRIES = 2


class RefusedError(Exception):
    """A run that is not to begin."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.message, self.code = message, code


class Preflight:
    """What the process that starts runs knows before there is one.

    `simulator` is there where no endpoint is configured; `calls` are the checks, `spent` is what they spent, and
    `prices` what a token of each target costs.
    """

    def __init__(self) -> None:
        self.options: Options
        self.targets: list[Target] = []
        self.simulator: Simulator | None = None
        self.calls: list[ObservedCall] = []
        self.spent = Spent()
        self.prices: dict[str, Price] = {}

    def check(self, scenario: Scenario, parsed: Any) -> None:
        """`parsed` are Locust's options with ours. Raises `RefusedError`."""
        try:
            self._read(scenario, parsed)
            scenario.check(self.options, self.targets)
            self._ask(scenario, parsed)
            self._check()
            self.options = scenario.checked(self.options, self.targets, self.calls)
        except SettingsError as error:
            raise RefusedError(str(error), EXIT_SETTINGS) from None
        except JournalError as error:
            raise RefusedError(str(error), EXIT_DISK) from None

    def _read(self, scenario: Scenario, parsed: Any) -> None:
        self.options = scenario.settings(read_options(parsed).of_engine())
        for kind, where in self.options.send:
            check_destination(kind, where, f"--send-{kind}")
        check_results(Path(self.options.results))
        self.targets = choose(self._find_targets(), self.options.targets)

    def _ask(self, scenario: Scenario, parsed: Any) -> None:
        """Where calls may cost something: says what is to be sent, and asks. Raises `SettingsError`."""
        options = self.options
        for target in self.targets if options.caps.any() else []:
            most_tokens(target, numbered(0, 16, 16))
        read_prices(options.prices_file)
        if options.plan == "auto" and not is_remote(self.targets):
            return
        seconds = float(parsed.run_time) if parsed.run_time else None
        check_end(options, seconds, scenario.ends(options))
        retries = DEFAULT_RETRIES if options.sdk_retries is None else options.sdk_retries
        attempts = 1 + retries * scenario.tries_again
        say("this run would send:")
        users = int(parsed.num_users or 1)
        size = scenario.expected(options, self.targets, users, seconds)
        for line in plan(options, self.targets, size, scenario.traffic(options, users), seconds, attempts):
            say(line)
        if options.plan == "only":
            raise RefusedError("nothing was sent: --plan only", EXIT_OK)
        ask_to_send(options.yes, lambda descriptor: select([descriptor], [], []))

    def _find_targets(self) -> dict[str, Target]:
        found = find(self.options)
        if not self.options.tls_verified:
            _check_flag()
            # Colour of our own, which `say` would show as escapes.
            print(red(f"headroom: {UNVERIFIED}"), file=sys.stderr, flush=True)
        if found:
            return found
        say("no endpoint configured: starting the simulator (set AZURE_OPENAI_ENDPOINT to call a real one)")
        began = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        self.simulator = Simulator(Path(self.options.results) / "simulator" / f"{began}-{os.getpid()}")
        return self.simulator.targets

    def _check(self) -> None:
        """One small call a target. It is journalled with the first run, as `preflight`."""
        prices, prompt = read_prices(self.options.prices_file), numbered(0, 16, 16)
        self.prices = {target.name: price_of(target, prices)[0] for target in self.targets}
        ledger = Ledger(self.options.caps, self.prices)
        client = Client(timeouts=self.options.timeouts, token=sign_in(self.targets))
        for target in self.targets:
            reservation = ledger.reserve(target, prompt)
            if reservation is None:
                raise SettingsError(f"{ledger.reached} leaves no room for the check of each target")
            call = client.observe(target, prompt, stream=False, traffic=PREFLIGHT)
            ledger.settle(reservation, call.status_code, call.input_tokens, call.output_tokens, call.cached_tokens)
            self.calls.append(call)
            code = exit_code(call)
            passes = code in (EXIT_OK, EXIT_THROTTLED) or call.outcome == "server_error"
            if not passes or call.throttle_kind == "quota_day":
                raise RefusedError(advice(call, target) or "", code)
            self.prices[target.name], known = price_of(target, prices, call.response_model)
            if self.options.caps.cost is not None and not known:
                model = printable(call.response_model or target.deployment)
                say(f"no price is known for {model}: for --max-cost it is taken to cost the dearest that is")
        self.spent = ledger.spent
        client.close()


def _check_flag() -> None:
    if not any(argument.startswith("--insecure") for argument in sys.argv):
        raise SettingsError("insecure-skip-verify stands in a file; only a command line can say it")
