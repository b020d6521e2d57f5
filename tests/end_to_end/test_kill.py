"""Real processes, real sockets, `kill -9`: what a swarm on loopback survives, and that it leaves nothing.

How many attempts a round may take is a promise of the virtual clock (tests/attacks/test_secure_kills.py): on
a busy machine the time for a step may run out with nobody struck down.
"""

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
rounds = 10_000
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
suspend_after = 1_000
"""


@dataclass
class Strikes:
    """Kills one peer after another, each in the next phase, whenever all four are in one round's record."""

    waiting: list[str] = field(default_factory=lambda: list(PHASES))
    armed: tuple[int, str] | None = None
    struck: list[tuple[str, int]] = field(default_factory=list)  # phase, round
    rounds: dict[int, dict[int, str]] = field(default_factory=dict)  # round -> peer -> snapshot
    over: asyncio.Event = field(default_factory=asyncio.Event)
    swarm: DemoSwarm | None = None

    def hear(self, number: int, event: Event) -> None:
        """One event of one peer."""
        match event:
            case {"event": "round", "round": int(round_), "snapshot_hash": str(name)}:
                self.rounds.setdefault(round_, {})[number] = name
                # One strike a round, however late the news of it come.
                spared = not self.struck or round_ >= self.struck[-1][1]
                if event["survivors"] == PEERS and spared and self.armed is None:
                    if not self.waiting:
                        self.over.set()
                        return
                    self.armed = ((number + 1) % PEERS, self.waiting.pop(0))
            case {"event": "phase", "phase": str(phase), "round": int(round_)} if self.armed == (
                number,
                phase,
            ):
                assert self.swarm is not None
                self.swarm.kill(number)
                self.struck.append((phase, round_))
                self.armed = None


def test_a_swarm_goes_on_with_one_model_whoever_is_killed_in_whatever_phase_and_leaves_nothing(
    tmp_path: Path,
) -> None:
    small = found_run(tmp_path, PEERS, MANIFEST)
    strikes = Strikes()

    async def run() -> int:
        swarm = DemoSwarm(tmp_path, small.run, strikes.hear, small.data)
        async with asyncio.timeout(500), swarm:
            strikes.swarm = swarm
            peers = [asyncio.create_task(swarm.keep(number)) for number in range(PEERS)]
            over = asyncio.create_task(strikes.over.wait())
            done, _ = await asyncio.wait([over, *peers], return_when=asyncio.FIRST_COMPLETED)
            assert done == {over}, "a peer ended by itself"
            for peer in peers:
                peer.cancel()
        return swarm.leftovers

    leftovers = asyncio.run(run())
    assert [phase for phase, _ in strikes.struck] == PHASES
    assert all(len(set(names.values())) == 1 for names in strikes.rounds.values())
    assert sorted(strikes.rounds) == list(range(1, max(strikes.rounds) + 1))
    assert leftovers == 0
