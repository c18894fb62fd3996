"""Hidden retries: what does an application see through the `openai` SDK of what the service did?

Two kinds of user, as many of the one as of the other, send the same mix to the same targets. One calls through the SDK
with its retries, as your application does; the other measures, one record an attempt, and tries nothing again.

Read them apart. The report's own figures are the service's, by the measuring users; "The application's view" is what
came through the SDK: which refusals it hid, how much waiting, and the time to first token with and without it. Both
draw on the same quota, and a refused attempt counts there too, so each makes the other's throttling worse: this
compares views of one service, not two ways to call it.

Costs what the calls cost, as `mixed.py` does. The SDK takes 10 to 40 times the CPU of the measuring client: from some
50 streams at once in a process on, its times are the process's own. At its end a run waits for calls that the SDK is
still retrying.
"""

from locust import constant, task

from locustfiles._run import listen, running
from locustfiles._scenario import Scenario
from locustfiles._sdk import SDKUser
from locustfiles._user import AzureOpenAIUser

listen(Scenario("sdk_retries", tries_again=True))


class MeasuringUser(AzureOpenAIUser):
    wait_time = constant(0)

    @task
    def measure(self) -> None:
        load = running()
        if load.is_open:
            self.dispatch()
        else:
            self.call(load.next_target(), load.mix.draw())


class ApplicationUser(SDKUser):
    wait_time = constant(0)

    @task
    def use(self) -> None:
        load = running()
        if load.is_open:
            self.dispatch()
        else:
            self.ask(load.next_target(), load.mix.draw())
