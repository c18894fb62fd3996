"""Our client, in real Locust like its peers: what it noted of its calls is in the run's journal."""

from locust import constant, task

from bench.noting import Noting, spread
from locustfiles._run import listen, running
from locustfiles._scenario import Scenario
from locustfiles._user import AzureOpenAIUser

noting = Noting()
listen(Scenario("bench"))


class Ours(AzureOpenAIUser):
    wait_time = constant(0)

    def on_start(self) -> None:
        super().on_start()
        # What `probe.issued` counts from, on the clock that the server's stamps are of.
        load = running()
        noting.about |= {"began": load.began, "worker": load.journal.worker_id}
        spread()

    @task
    def stream(self) -> None:
        load = running()
        self.call(load.next_target(), load.mix.draw())
