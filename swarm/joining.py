"""Coming into the roster: a newcomer's trial and request, and what a steward does before the first round."""

import logging
from collections.abc import Callable
from typing import Any

from proto.canonical import PeerID
from secagg.ring import NonFinite
from swarm.compute import Compute
from swarm.directory import Directory
from swarm.net.public import PublicClient
from swarm.net.rpc import Refused, Unreachable
from swarm.order import Order
from swarm.round import Participant
from swarm.shards.stage import OutOfMemory
from swarm.snapshot import SnapshotCorrupt
from verify.record import Decided, History, Recovery
from verify.statement import sign

log = logging.getLogger(__name__)


class Joining:
    """One peer's requests to be let in. `invitation`: a steward's, where the run asks for one."""

    def __init__(
        self,
        machine: Participant,
        compute: Callable[[], Compute],
        directory: Directory,
        invitation: bytes | None,
        emit: Callable[[dict[str, Any]], None],
    ) -> None:
        self._machine, self._compute, self._directory = machine, compute, directory
        self._invitation, self._emit = invitation, emit
        self._trying = False
        self._trial: tuple[Order | None, tuple[tuple[int, ...], ...]] = (None, ())

    async def ask(self) -> None:
        """Do the trial that is asked for, once, and hand the request to every member that can be reached."""
        machine = self._machine
        history, order = machine.history, machine.trial()
        waiting = order is not None and history.probation.under_way(machine.me, history.round)
        if self._trying or waiting:
            return
        if order is None or self._trial[0] != order:
            slices = 0 if order is None else len(order.slices)
            shard = {"shard": machine.shard} if history.shards else {}
            self._emit({"event": "joining", "round": history.round, "trial": slices, **shard})
            self._trying = True
            try:
                self._trial = order, () if order is None else await self._compute().trial(order)
            except (SnapshotCorrupt, NonFinite, OutOfMemory) as error:
                log.warning("the trial of record %d: %s", history.round, error)
                return
            finally:
                self._trying = False
        statement = machine.join(*self._trial, self._invitation)
        for peer, record in self._directory.known().items():
            if peer in machine.history.roster:
                try:
                    async with PublicClient(record) as client:
                        await client.join(statement)
                except (Unreachable, Refused) as error:
                    log.info("asking to join: %s", error)


def enrolment(machine: Participant) -> bytes | None:
    """Before the first round, the record by which a sole steward takes in as many of those who asked as the
    run needs to begin; None: there are too few. The others are on probation."""
    history = machine.history
    needed = machine.manifest.run.min_peers
    asked = [peer for peer in machine.waiting() if peer not in history.roster]
    members = sorted([*history.roster, *asked[: max(0, needed - len(history.roster))]])
    if history.moved or len(members) < needed or history.genesis.stewards != (machine.me,):
        return None
    recovery = Recovery(
        run=history.run,
        round=history.round + 1,
        previous=history.head,
        members=tuple(members),
        shards=_spread(history, members),
    )
    return Decided(
        round=recovery.round,
        attempt=0,
        recovery=True,
        body=recovery.encode(),
        votes=(sign(machine.identity, recovery),),
    ).encode()


def _spread(history: History, members: list[PeerID]) -> tuple[int, ...]:
    """The shard of each member in a run of several: newcomers hold what fewest do."""
    held = [len(cell) for cell in history.cells]
    shards: list[int] = []
    for peer in members if history.shards else ():
        known = peer in history.roster
        shard = history.shard_of(peer) if known else held.index(min(held))
        held[shard] += not known
        shards.append(shard)
    return tuple(shards)
