"""Which region answers fastest, and is the difference more than luck?

Each of `--rounds` rounds makes the same call to every target, one after the other and in an order of its own, so that
the time of day, which changes answers by more than regions do, is the same for all.

    locust -f locustfiles/regions.py --headless --rounds 200 --targets eastus,swedencentral

Costs as many calls as rounds times targets. `analysis regions` has what it found: the ranking, each difference with its
interval, and weights for a load balancer.
"""

from locust import constant, task

from locustfiles._compared import RegionsRounds
from locustfiles._run import listen, running
from locustfiles._user import AzureOpenAIUser

listen(RegionsRounds())


class RegionsUser(AzureOpenAIUser):
    wait_time = constant(0)

    @task
    def compare(self) -> None:
        self.dispatch() if running().is_open else self.take_rounds()
