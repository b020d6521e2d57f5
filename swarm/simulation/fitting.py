"""Fits the phase times to the real round machine: `python -m swarm.simulation.fitting > FILE`, three minutes.

For each phase, seconds = latency x (a + b ln n) + vector x c x (n - 1) / n, by least squares over what
`machine.measure` gives; and what it costs when a member is lost in it, in round time-outs, by killing one.
The table is swarm/simulation/phase_times.csv; a test runs the machine again, at other sizes.
"""

import math
import sys
from collections.abc import Iterator

import numpy as np

from proto.canonical import PeerID
from swarm.phases import PHASES
from swarm.simulation.machine import LARGEST, WINDOW, Link, LinkedSwarm, measure

MEMBERS = (4, 6, 8, 12, LARGEST)
LINKS = (Link(0.05, 0.0), Link(0.01, 4.0), Link(0.05, 1.0))
TIMEOUT = 600.0
"""Seconds of the round's time-out where members are lost: far above all else that takes time."""
LOST_ROUND = 2
TRIES = 6
"""What is lost with a member depends on whose turn it is to propose: the mean over so many draws."""
HEAD = """\
# Seconds of a round's phases (n members): latency x (hops + hops-by-log ln n) + vector x vectors x (n - 1)/n
# `latency`: seconds that a statement takes at most; `vector`: of an encoded vector through a link one way.
# A member lost in the phase costs `lost` round time-outs on average, and where `void` is 1 the attempt.
# Fitted to the real round machine with {members} members on a virtual clock: swarm/simulation/fitting.py.
phase,hops,hops-by-log,vectors,lost,void"""


def main() -> None:
    """Measure, and write the table to standard output."""
    sys.stdout.write("\n".join([HEAD.format(members=" ".join(map(str, MEMBERS))), *_rows()]) + "\n")


def _rows() -> Iterator[str]:
    found = {(n, link): measure(n, link) for n in MEMBERS for link in LINKS}
    design = [(k.latency, k.latency * math.log(n), k.vector * (n - 1) / n) for n, k in found]
    for phase in PHASES:
        seconds = [one.get(phase, 0.0) for one in found.values()]
        hops, by_log, vectors = np.linalg.lstsq(np.array(design), np.array(seconds), rcond=None)[0]
        tries = [lose_one(8, phase, seed) for seed in range(TRIES)]
        lost = sum(seconds for seconds, _ in tries) / TRIES
        void = round(sum(voids for _, voids in tries) / TRIES)
        yield f"{phase},{hops:.3f},{by_log:.3f},{vectors:.3f},{lost:.3f},{void}".replace("-0.000", "0.000")


def lose_one(members: int, phase: str, seed: int = 1) -> tuple[float, int]:
    """Kill one member in a phase of a round: by how many time-outs this round takes longer, and how many of
    its attempts come to nothing. Time to train again, and to wait at meeting it, are not counted in."""
    swarm = LinkedSwarm(members, LOST_ROUND, Link(0.005, 3.0), seed, TIMEOUT)
    victim, other = sorted(swarm.peers)[1:3]
    killed = list[PeerID]()
    looked = swarm._look

    def look(peer: PeerID) -> None:
        looked(peer)
        machine = swarm.peers[peer].machine
        if peer != victim or machine is None or killed or machine.slot != (LOST_ROUND, 0):
            return
        if swarm.seen[peer].clock.current == phase:
            killed.append(peer)
            # In the middle of what takes time, at once where nothing does.
            swarm.at(swarm.now + (1.0 if phase in ("train", "mask", "unmask") else 0.0), kill)

    def kill() -> None:
        swarm.kill(victim)

    swarm._look = look  # type: ignore[method-assign]
    swarm.run()
    before, now = (sum(one.values()) for one in swarm.seen[other].rounds)
    voids = len(swarm.peers[other].voids)
    again = voids * (WINDOW + TIMEOUT / 4)
    return (now - before - again) / TIMEOUT, voids


if __name__ == "__main__":
    main()
