"""Replay: how would these targets bear the traffic that was recorded elsewhere, at its own times and faster?

`--trace` names what was recorded: a run's folder of ours, diagnostic logs (a file or a folder, as a storage account has
them), or a published trace (the Azure LLM inference traces, BurstGPT). Calls are due as they came, with their sizes and
whether they streamed; words and targets are this run's own. Where it is not recorded whether a call streamed, as in
published traces, `--stream-share` of them do.

    locust -f locustfiles/replay.py --headless --trace results/RUN
    locust -f locustfiles/replay.py --headless --trace logs/ --trace-speed 10 --trace-seconds 3600

Costs what the recorded calls cost, whatever the speed: the plan says how much before anything is sent. Bursts count as
they were; at ten times the speed a minute's limits meet ten minutes' traffic. The run is of the open model: read
latencies from when calls were due.
"""

from locust import constant, task

from locustfiles._run import listen
from locustfiles._scenario import Replay
from locustfiles._user import AzureOpenAIUser

listen(Replay())


class ReplayUser(AzureOpenAIUser):
    wait_time = constant(0)

    @task
    def replay(self) -> None:
        self.dispatch()
