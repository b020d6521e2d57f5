"""Real processes, real sockets, `kill -9`: what a swarm on loopback survives, and that it leaves nothing."""

import asyncio
from dataclasses import dataclass, field
from pathlib import Path

from swarm.cli.children import Event
from swarm.cli.demo_swarm import DemoSwarm
from tests.end_to_end.small_run import found_run

PEERS = 4
PHASES = ["train", "meet", "share", "mask", "agree", "unmask", "apply", "decide"]
MANIFEST = """\
[run]
rounds = 30
min_peers = 4
founding_peers = [{others}]
[data]
source = "{data}"
sequence_length = 16
[work]
slices = 2
sequences_per_slice = 2
window_seconds = 0.5
[membership]
round_timeout_seconds = 12.0
suspend_after = 8
"""


@dataclass
class Strikes:
    """Kills one peer after another, each in the next phase, whenever all four were in the last round."""

    waiting: list[str] = field(default_factory=lambda: list(PHASES))
    armed: tuple[int, str] | None = None
    struck: list[tuple[str, int]] = field(default_factory=list)  # phase, round
    rounds: dict[int, set[str]] = field(default_factory=dict)
    voids: dict[int, set[int]] = field(default_factory=dict)
    final: dict[int, str] = field(default_factory=dict)
    swarm: DemoSwarm | None = None

    def hear(self, number: int, event: Event) -> None:
        """One event of one peer."""
        match event:
            case {"event": "round", "round": int(round_), "snapshot_hash": str(name)}:
                self.rounds.setdefault(round_, set()).add(name)
                # One strike a round, however late the news of it come.
                spared = not self.struck or round_ >= self.struck[-1][1]
                if event["survivors"] == PEERS and spared and self.armed is None and self.waiting:
                    self.armed = ((number + 1) % PEERS, self.waiting.pop(0))
            case {"event": "void", "round": int(round_), "attempt": int(attempt)}:
                self.voids.setdefault(round_, set()).add(attempt)
            case {"event": "phase", "phase": str(phase), "round": int(round_)} if self.armed == (
                number,
                phase,
            ):
                assert self.swarm is not None
                self.swarm.kill(number)
                self.struck.append((phase, round_))
                self.armed = None
            case {"event": "ended", "snapshot": str(name)}:
                self.final[number] = name


def test_kill_9_of_any_peer_in_any_phase_costs_at_most_that_round_and_leaves_nothing(tmp_path: Path) -> None:
    small = found_run(tmp_path, PEERS, MANIFEST)
    strikes = Strikes()

    async def run() -> int:
        swarm = DemoSwarm(tmp_path, small.run, strikes.hear, small.data)
        async with asyncio.timeout(400), swarm:
            strikes.swarm = swarm
            await asyncio.gather(*(swarm.keep(number) for number in range(PEERS)))
        return swarm.leftovers

    leftovers = asyncio.run(run())
    assert [phase for phase, _ in strikes.struck] == PHASES
    assert all(len(names) == 1 for names in strikes.rounds.values())
    assert sorted(strikes.rounds) == list(range(1, 31))
    assert set(strikes.final) == set(range(PEERS))
    assert len(set(strikes.final.values())) == 1
    assert {round_: attempts for round_, attempts in strikes.voids.items() if len(attempts) > 1} == {}
    assert leftovers == 0
