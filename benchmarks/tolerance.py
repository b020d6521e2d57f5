"""How far honest machines are apart when they compute one slice, and how far the least cheat is from them.

Processes with 1 and 2 threads, three instruction sets and two kinds of attention compute the same slices
of byte-level OPTs (30,000 and 850,000 parameters) in float32, at snapshots along a run. `honest_max` is the
largest distance, in any chunk of a run's size, of any of them from the reference (1 thread, the best
instructions, the kind of attention that peers use); `honest_max_small` the same in chunks of 1,024 elements.
`cheat_min` is the least distance of any cheat. `gap` is their ratio: the manifest's tolerance lies between.
"""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier

import numpy as np
import torch

from benchmarks.byte_model import (
    CHUNK,
    VOCABULARY,
    byte_manifest,
    byte_model,
    start_of,
    text,
    trainer_of,
)
from benchmarks.processes import Group
from benchmarks.report import Report, Row, command_line, progress
from proto.canonical import tagged_hash
from secagg.ring import CHUNK as RUN_CHUNK
from swarm.manifest import Manifest
from swarm.order import Order
from swarm.outer import outer_step
from swarm.snapshot import Snapshot
from verify.check import ACCUSE
from verify.commitment import distance
from verify.sketch import AGREE, sketch

GOALS = {"gap": (">=", 5.0), "above_tolerance": ("==", 0.0)}
SEQUENCES = 8
TASKS = {False: (176, 560), True: (8, 48)}
"""Slices that every machine computes, of the small and of the wide model: quick, in full. With 11 machines
besides the reference, 184 slices make 2,024 comparisons."""
ROUNDS = {False: (0, 3, 10, 25, 50), True: (0, 2, 6, 12)}
"""Rounds after which the snapshots are taken."""


NOTES = (
    "Distance: sum|q - q'| / max(sum|q|, floor) of a chunk's integers, as checks take it; a chunk of a run "
    "has 65,536 elements, the small model's vector 54,272, the wide one's 13 chunks.",
    "Sketches: the distance of two over the longer one; `sketch_other_min` is that of two different slices.",
    "Below the tolerance by nature: a slice that is longer by less than the tolerance; the row shows 5 %.",
)


@dataclass(frozen=True)
class Machine:
    """How a checker's machine differs. `capability`: of ATen's kernels; empty: the best there are."""

    threads: int = 1
    capability: str = ""
    attention: str = "sdpa"

    @property
    def name(self) -> str:
        """For the table."""
        instructions = self.capability or "best"
        return f"{self.threads} thread{'s' * (self.threads > 1)}, {instructions}, {self.attention}"


PATIENT = {"OMP_WAIT_POLICY": "passive", "KMP_BLOCKTIME": "0", "GOMP_SPINCOUNT": "0"}
"""Threads that wait give way: more of them than cores would else wait for one another."""
CAPABILITIES = ("", "avx2", "default")
MACHINES = tuple(
    Machine(threads, capability, attention)
    for capability in CAPABILITIES
    for attention in ("sdpa", "eager")
    for threads in (1, 2)
)
"""The first is the reference."""

Task = tuple[bool, Snapshot, Order, np.ndarray]
"""A slice to compute: whether of the wide model, where, the order (of one slice), its sequences."""
Found = dict[Machine, list[np.ndarray]]


def measure(quick: bool) -> Report:
    """Every machine on the same slices, then cheats against the reference."""
    manifest = byte_manifest(60, sequences=SEQUENCES)
    tasks = [task for wide in TASKS for task in tasks_at(manifest, wide, TASKS[wide][0 if quick else 1])]
    progress(f"tolerance: {len(tasks)} slices on {len(MACHINES)} machines")
    environments = [PATIENT | ({"ATEN_CPU_CAPABILITY": one} if one else {}) for one in CAPABILITIES]
    with Group(serve, len(CAPABILITIES), environments=environments) as group:
        answers: list[Found] = group.ask((manifest, tasks))
    found = {machine: slices for answer in answers for machine, slices in answer.items()}
    reference, *others = MACHINES
    tolerance, mine = manifest.verification.tolerance, found[reference]
    honest = {
        machine: [farthest(a, b, RUN_CHUNK) for a, b in zip(mine, found[machine], strict=True)]
        for machine in others
    }
    small = [farthest(a, b, CHUNK) for machine in others for a, b in zip(mine, found[machine], strict=True)]
    cheats = cheated(manifest, tasks, mine)
    longer = [farthest(one, np.rint(one * 1.05).astype(one.dtype), RUN_CHUNK) for one in mine]
    every = [far for values in honest.values() for far in values]
    honest_max, cheat_min = max(every), min(min(values) for values in cheats.values())
    sketches = [sketch(one, bytes(32)) for one in mine]
    sketched = [
        sketches_apart(ours, sketch(theirs, bytes(32)))
        for machine in others
        for ours, theirs in zip(sketches, found[machine], strict=True)
    ]
    figures = {
        "honest_max": honest_max,
        "cheat_min": cheat_min,
        "gap": cheat_min / honest_max,
        "honest_checks": float(len(every)),
        "above_tolerance": float(sum(far > tolerance for far in every)),
        "tolerance": tolerance,
        "accused_above": ACCUSE * tolerance,
        "tokens_not_accused": share_below(cheats["1 token changed"], ACCUSE * tolerance),
        "honest_max_small": max(small),
        "accused_small": float(sum(far > ACCUSE * tolerance for far in small)),
        "sketch_honest_max": max(sketched),
        "sketch_other_min": min(sketches_apart(one, other) for one, other in pairwise(sketches)),
        "sketch_agree": AGREE,
    }
    rows = [Row(f"honest: {machine.name}", "", tuple(values)) for machine, values in honest.items()]
    rows += [Row(f"cheat: {name}", "", tuple(values)) for name, values in cheats.items()]
    rows.append(Row("5 % longer", "", tuple(longer)))
    return Report("tolerance", figures, GOALS, tuple(rows), NOTES)


def share_below(values: Sequence[float], bound: float) -> float:
    """The share of values that are not above the bound."""
    return sum(value <= bound for value in values) / len(values)


def tasks_at(manifest: Manifest, wide: bool, count: int) -> list[Task]:
    """So many slices, in turn at each snapshot along a run."""
    snapshots, (sequences, _) = along_a_run(manifest, wide), text()
    chance, tasks = np.random.default_rng(2), list[Task]()
    for at in range(count):
        snapshot = snapshots[at * len(snapshots) // count]
        chosen = tuple(int(index) for index in chance.integers(0, len(sequences), SEQUENCES))
        tasks.append((wide, snapshot, order_at(snapshot, chosen, at), sequences[list(chosen)]))
    return tasks


def along_a_run(manifest: Manifest, wide: bool) -> list[Snapshot]:
    """Snapshots of a run of honest peers, after `ROUNDS`."""
    torch.set_num_threads(1)
    model = byte_model(wide=wide)
    layout, snapshot = start_of(model, manifest)
    trainer, (sequences, _) = trainer_of(model, manifest), text()
    chance, kept, peers = np.random.default_rng(1), list[Snapshot](), 4
    for round_ in range(max(ROUNDS[wide]) + 1):
        if round_ in ROUNDS[wide]:
            kept.append(snapshot)
        total = np.zeros(layout.size, manifest.ring.dtype)
        for peer in range(peers):
            chosen = tuple(int(index) for index in chance.integers(0, len(sequences), SEQUENCES))
            for done in trainer.train(order_at(snapshot, chosen, peer), snapshot, sequences):
                np.add(total, done.encoded, out=total)
        rounds = manifest.run.rounds
        snapshot = outer_step(snapshot, total, peers, layout, manifest.outer, manifest.ring, rounds)
    return kept


def order_at(snapshot: Snapshot, chosen: tuple[int, ...], seed: int) -> Order:
    """An order of one slice."""
    rounding = tagged_hash("rounding", seed.to_bytes(8, "big"))
    return Order(bytes(32), snapshot.round + 1, 0, 0, snapshot.hash, (chosen,), rounding)


def serve(index: int, pipe: Connection, barrier: Barrier) -> None:
    """A process with one set of kernels: compute the tasks it is sent as each of its machines would."""
    capability = CAPABILITIES[index]
    if capability and torch.backends.cpu.get_cpu_capability().lower() != capability:
        raise SystemExit(f"this processor has no {capability} kernels")
    manifest, tasks = pipe.recv()
    found: Found = {}
    for machine in MACHINES:
        if machine.capability == capability:
            torch.set_num_threads(machine.threads)
            trainers = {wide: trainer_of(byte_model(machine.attention, wide), manifest) for wide in TASKS}
            found[machine] = [
                trainers[wide].compute_slice(order, 0, at, rows).encoded for wide, at, order, rows in tasks
            ]
    pipe.send(found)


def cheated(
    manifest: Manifest, tasks: Sequence[Task], honest: Sequence[np.ndarray]
) -> dict[str, list[float]]:
    """How far each cheat is from the honest slices, on the reference's machine."""
    torch.set_num_threads(1)
    trainers = {wide: trainer_of(byte_model(wide=wide), manifest) for wide in TASKS}
    chance, (sequences, _) = np.random.default_rng(3), text()
    before: dict[bytes, Snapshot] = {}
    for (wide, earlier, _, _), (same, at, _, _) in pairwise(tasks):
        if wide == same and earlier.hash != at.hash:
            before[at.hash] = earlier
    far: dict[str, list[float]] = {}
    for (wide, snapshot, order, rows), mine in zip(tasks, honest, strict=True):
        token, swapped, blank = rows.copy(), rows.copy(), rows.copy()
        place = chance.integers(SEQUENCES), chance.integers(1, rows.shape[1] - 1)
        token[place] = (token[place] + chance.integers(1, VOCABULARY)) % VOCABULARY
        swapped[0] = sequences[chance.integers(len(sequences))]
        blank[0, rows.shape[1] // 2 :] = 0
        bent = {"1 token changed": token, "1 sequence swapped": swapped, "half a sequence blank": blank}
        lies = {
            name: trainers[wide].compute_slice(order, 0, snapshot, lie).encoded
            for name, lie in bent.items()
            if not np.array_equal(lie, rows)
        }
        if snapshot.hash in before:
            late = before[snapshot.hash]
            moved = replace(order, snapshot=late.hash)
            lies["an older snapshot"] = trainers[wide].compute_slice(moved, 0, late, rows).encoded
        for name, lie in lies.items():
            far.setdefault(name, []).append(farthest(mine, lie, RUN_CHUNK))
    return far


def farthest(mine: np.ndarray, theirs: np.ndarray, chunk: int) -> float:
    """The largest distance in any chunk."""
    chunks = [slice(at, at + chunk) for at in range(0, len(mine), chunk)]
    unequal = [where for where in chunks if not np.array_equal(mine[where], theirs[where])]
    return max((distance(mine[where], theirs[where]) for where in unequal), default=0.0)


def sketches_apart(one: Sequence[int], other: Sequence[int]) -> float:
    """How far two sketches are apart, over the longer one; what `verify.sketch.agree` has a bound on."""
    apart = math.dist(one, other)
    return apart / max(math.hypot(*one), math.hypot(*other)) if apart else 0.0


def main() -> None:
    """`python -m benchmarks.tolerance`."""
    os.environ.pop("ATEN_CPU_CAPABILITY", None)
    command_line("tolerance", measure, __doc__ or "")


if __name__ == "__main__":
    main()
