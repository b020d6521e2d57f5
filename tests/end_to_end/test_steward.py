"""When more than a third is gone for good, the steward's recovery record restarts the run."""

import asyncio
import sys
from pathlib import Path

from swarm.cli.children import Event
from swarm.cli.demo_swarm import DemoSwarm
from tests.end_to_end.small_run import found_run

MANIFEST = """\
[run]
rounds = 5
min_peers = 4
founding_peers = [{others}]
[data]
source = "{data}"
sequence_length = 16
[aggregation]
mode = "plain"
[work]
slices = 2
sequences_per_slice = 2
window_seconds = 0.5
[membership]
round_timeout_seconds = 8.0
"""


def test_a_paused_run_goes_on_with_the_peers_a_steward_keeps(tmp_path: Path) -> None:
    small = found_run(tmp_path, 4, MANIFEST)

    async def run() -> dict[int, str]:
        first_round, paused = asyncio.Event(), asyncio.Event()
        final: dict[int, str] = {}
        rosters: list[int] = []

        def hear(number: int, event: Event) -> None:
            match event:
                case {"event": "round", "peers": int(peers)}:
                    first_round.set()
                    rosters.append(peers)
                case {"event": "paused"} if number == 0:
                    paused.set()
                case {"event": "ended", "snapshot": str(name)}:
                    final[number] = name

        async with asyncio.timeout(240), DemoSwarm(tmp_path, small.run, hear, small.data) as swarm:
            keeping = [asyncio.create_task(swarm.keep(number)) for number in range(4)]
            await first_round.wait()
            for number in (2, 3):
                swarm.kill(number)
                keeping[number].cancel()
            await paused.wait()
            command = [sys.executable, "-m", "swarm.cli.steward", "recover", "--run", small.run.hex()]
            command += ["--join", swarm.entry, "--state-dir", str(tmp_path)]
            command += ["--identity", str(tmp_path / "peers" / "0" / "identity.key")]
            steward = await asyncio.create_subprocess_exec(
                *command, *(f"--keep={peer}" for peer in small.peers[:2])
            )
            assert await steward.wait() == 0
            await asyncio.gather(keeping[0], keeping[1])
        assert rosters[-1] == 2
        return final

    final = asyncio.run(run())
    assert set(final) == {0, 1}
    assert len(set(final.values())) == 1
