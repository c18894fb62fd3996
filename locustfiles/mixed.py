"""Mixed traffic: how do these targets bear a declared mix of streaming and non-streaming calls?

By default each user calls again as soon as its call has ended. With `--rate`, `--schedule` or `--trace` calls are due
on a schedule instead, whatever the service does, and one user is enough. Costs what the calls cost: tokens in and out,
on every target.
"""

from locust import constant, task

from locustfiles._run import listen, running
from locustfiles._scenario import Scenario
from locustfiles._user import AzureOpenAIUser

listen(Scenario("mixed"))


class MixedUser(AzureOpenAIUser):
    wait_time = constant(0)

    @task
    def mixed(self) -> None:
        load = running()
        if load.is_open:
            self.dispatch()
        else:
            self.call(load.next_target(), load.mix.draw())
