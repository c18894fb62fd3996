"""What does the gateway in front of Azure OpenAI cost in time, and what does it do to replies?

Each of `--rounds` rounds makes the same call on every path, directly and through each gateway, one after the other and
in an order of its own, so that neither the time of day nor who came first can look like the gateway's doing. Texts are
of one size and different words: no path finds in the cache what another has put there.

    locust -f locustfiles/gateway.py --headless --rounds 200 --targets eastus,apim,apim-logged

Costs as many calls as rounds times paths. `analysis gateway` has what it found: what each gateway adds to the headers,
the first token and the whole call, by pairs of calls, and whether it buffers, blocks or breaks streams.
"""

from locust import constant, task

from locustfiles._compared import GatewayRounds
from locustfiles._run import listen, running
from locustfiles._user import AzureOpenAIUser

listen(GatewayRounds())


class GatewayUser(AzureOpenAIUser):
    wait_time = constant(0)

    @task
    def compare(self) -> None:
        self.dispatch() if running().is_open else self.take_rounds()
