"""A whole simulated run beside the real round machine, with the same links and the same crashes."""

from dataclasses import replace

import numpy as np
import pytest

from swarm.plan.cost import Job, World, shard_load
from swarm.plan.devices import named_devices
from swarm.plan.solve import stated_grid
from swarm.simulation.crowd import Terms, crowd_of
from swarm.simulation.machine import APPLY, WINDOW, Link, LinkedSwarm
from swarm.simulation.run import Setting, simulate
from swarm.simulation.traces import Stretch

MEMBERS, SECONDS, TIMEOUT = 5, 150.0, 60.0
LINK = Link(0.05, 1.0)


def real_records(away: dict[int, tuple[float, float]]) -> int:
    """Records that the round machine makes; `away`: when a member crashes, and when it is back."""
    swarm = LinkedSwarm(MEMBERS, 10_000, LINK, 1, TIMEOUT)
    peers = sorted(swarm.peers)
    for member, (gone, back) in away.items():
        swarm.at(gone, lambda peer=peers[member]: swarm.kill(peer))  # type: ignore[misc]
        swarm.at(back, lambda peer=peers[member]: swarm.start(peer))  # type: ignore[misc]
    swarm.run(until=lambda: swarm.now >= SECONDS)
    return max(len(peer.records) for peer in swarm.peers.values())


def simulated_records(away: dict[int, tuple[float, float]]) -> int:
    job = Job("tiny", 128)
    size = shard_load(job, 2, True, True).parameters
    crowd = replace(
        crowd_of(named_devices(f"laptops-{MEMBERS}"), World(stated_grid(369.0, "USA"))),
        up=np.full(MEMBERS, size * 2 / LINK.vector),
        down=np.full(MEMBERS, 1e15),
        latency=np.full(MEMBERS, LINK.latency),
    )
    terms = Terms(job, (2,), WINDOW, TIMEOUT, rate=0.0, masking=0.0, fixed=0.0, outer=APPLY / (size / 1e6))
    traces = []
    for member in range(MEMBERS):
        gone, back = away.get(member, (SECONDS, SECONDS))
        parts = [Stretch(0.0, gone, member in away)]
        traces.append(parts + [Stretch(back, SECONDS, False)] * (member in away))
    return simulate(crowd, terms, traces, Setting(SECONDS, 1, 0.0, 300.0, 1e9, False)).records


@pytest.mark.parametrize(
    "away", [{}, {2: (50.0, 58.0)}, {1: (30.0, 90.0), 4: (110.0, 135.0)}], ids=["calm", "one", "two"]
)
def test_a_simulated_run_makes_as_many_records_as_the_round_machine(
    away: dict[int, tuple[float, float]],
) -> None:
    assert simulated_records(away) == pytest.approx(
        real_records(away), rel=0.25
    )  # who proposes, and so what a crash voids, is drawn
