"""What the tests of whole rounds share: a swarm that is watched, and what its records must show."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import TypeVar

import numpy as np

from proto.canonical import PeerID
from secagg.interface import SendPart, SendSum, Tell
from secagg.messages import (
    Advert,
    Evidence,
    Part,
    PartSum,
    Receipt,
    SessionMessage,
    Shown,
    SurvivorSet,
    chunk_hashes,
)
from swarm.effects import Apply, Effect, Meet, SaveEntered, Slot, Train
from swarm.testing import CHUNK, VirtualSwarm, virtual_manifest
from verify.evidence import PortableEvidence, Rules, examine, portable
from verify.record import Decided, Record
from verify.statement import Signed, domain_of, open_signed, sign

M = TypeVar("M", bound=SessionMessage)
INSANE = 30_000
"""What a lying owner publishes in every element of its part: beyond what all members together can give."""


class Watch:
    """Everything the peers of a swarm handed out, and the updates they brought into their sessions."""

    def __init__(self, swarm: VirtualSwarm) -> None:
        self.swarm = swarm
        self.effects: list[tuple[PeerID, Effect]] = []
        self.updates: dict[tuple[PeerID, Slot], np.ndarray] = {}
        self.hooks: list[Callable[[PeerID, Effect], None]] = []
        swarm.on_effect = self._look

    def _look(self, peer: PeerID, effect: Effect) -> None:
        for hook in self.hooks:
            hook(peer, effect)
            if self.swarm.peers[peer].machine is None:
                return
        self.effects.append((peer, effect))
        if isinstance(effect, SaveEntered):
            session = self.swarm.machine(peer).session
            assert session is not None
            self.updates[peer, effect.slot] = session.update.copy()

    def adverts(self) -> list[tuple[PeerID, Advert]]:
        return [
            (peer, open_signed(effect.advert, Advert).message)
            for peer, effect in self.effects
            if isinstance(effect, Meet)
        ]

    def told(self, kind: type[M], by: Iterable[PeerID]) -> list[Signed[M]]:
        """The statements of a kind that these members told, each once, in the order of time."""
        raws = {
            effect.raw: None
            for peer, effect in self.effects
            if peer in by and isinstance(effect, Tell) and domain_of(effect.raw) == kind.DOMAIN
        }
        return [open_signed(raw, kind) for raw in raws]


def swarm_of(peers: int, rounds: int, seed: int = 0, mode: str = "secure", size: int = 200) -> VirtualSwarm:
    """A swarm in which nobody is spot-checked: what sessions find by themselves is what is tested."""
    manifest = virtual_manifest(rounds, mode, verification="rate = 0.0")
    return VirtualSwarm(peers, rounds, seed, manifest, size)


def records_of(swarm: VirtualSwarm, peer: PeerID) -> list[Record]:
    outcomes = [Decided.parse(raw) for raw in swarm.peers[peer].disk.decided]
    return [Record.parse(outcome.body) for outcome in outcomes if outcome.body]


def assert_one_model(swarm: VirtualSwarm, peers: Iterable[PeerID]) -> list[Record]:
    """All of these peers ended on one snapshot, with the same records, which are returned."""
    first, *others = peers
    chain = records_of(swarm, first)
    assert swarm.peers[first].final is not None
    for peer in others:
        assert swarm.peers[peer].final == swarm.peers[first].final
        assert records_of(swarm, peer) == chain
    return chain


def assert_sums_are_those_of_the_survivors(
    watch: Watch, chain: list[Record], peers: Iterable[PeerID]
) -> None:
    """What these peers applied is, round by round, the plain sum of the survivors' updates."""
    applied = {(peer, e.slot): e.total for peer, e in watch.effects if isinstance(e, Apply)}
    for record in chain:
        slot = (record.round, record.attempt)
        expected = sum(watch.updates[peer, slot].astype(int) for peer in record.survivors)
        mine = [total for (peer, at), total in applied.items() if at == slot and peer in set(peers)]
        assert mine
        assert all((total == expected).all() for total in mine)


def sends_garbage(watch: Watch, liar: PeerID, slots: Callable[[Slot], bool]) -> None:
    """The liar's update is uniform over the ring in these slots; it holds nothing against itself."""
    random = np.random.default_rng(5)

    def garble(peer: PeerID, effect: Effect) -> None:
        if peer != liar:
            return
        machine = watch.swarm.machine(liar)
        if isinstance(effect, Train):
            machine.evidence.clear()
        if isinstance(effect, SaveEntered) and slots(effect.slot):
            assert machine.session is not None
            update = machine.session.update
            update[:] = random.integers(-(1 << 15), 1 << 15, len(update))

    watch.hooks.append(garble)


def says(
    swarm: VirtualSwarm, liar: PeerID, kind: type[M], how: Callable[[PeerID, M], Iterable[M | None]]
) -> None:
    """What reaches each member instead of the liar's statement of a kind: others, one after the other."""
    before, identity = swarm.filter, swarm.peers[liar].identity

    def lie(sender: PeerID, to: PeerID, raw: bytes) -> list[tuple[float, bytes]]:
        if sender != liar or domain_of(raw) != kind.DOMAIN:
            return list(before(sender, to, raw))
        said = [message for message in how(to, open_signed(raw, kind).message) if message is not None]
        return [(at * 0.1, sign(identity, message)) for at, message in enumerate(said)]

    swarm.filter = lie


def keeps_back(swarm: VirtualSwarm, liar: PeerID, *kinds: type[SessionMessage]) -> None:
    """The liar tells nobody any statement of these kinds."""
    for kind in kinds:
        says(swarm, liar, kind, lambda to, message: [])


def publishes_insane_sums(
    swarm: VirtualSwarm, liar: PeerID, to: Iterable[PeerID], slots: Callable[[Slot], bool]
) -> None:
    """The liar sends these members, in these slots, sums that no updates give; the others the true ones."""
    transfer, victims = swarm._transfer, set(to)

    def lie(me: PeerID, sent: SendPart | SendSum) -> None:
        lying = me == liar and isinstance(sent, SendSum) and sent.to in victims
        if lying and slots(swarm.machine(me).slot):
            data = np.full_like(sent.data, INSANE)
            true = open_signed(sent.header, PartSum).message
            bent = true.model_copy(update={"hashes": chunk_hashes(data, CHUNK)})
            sent = replace(sent, header=sign(swarm.peers[liar].identity, bent), data=data)
        transfer(me, sent)

    swarm._transfer = lie  # type: ignore[method-assign]


def asks_for_other_chunks(watch: Watch, liar: PeerID) -> None:
    """As soon as it has a sum, the liar shows each member another chunk than the one that is drawn."""
    swarm = watch.swarm

    def ask(peer: PeerID, effect: Effect) -> None:
        session = swarm.machine(liar).session
        if peer != liar or not isinstance(effect, Apply):
            return
        assert session is not None
        for chunk, member in enumerate(sorted(set(swarm.peers) - {liar})):
            part, where = session.cut.holding(chunk)
            header, data = session._headers[part][0], session.update[where].tobytes()
            shown = Shown(session=session.id, chunk=chunk, header=header, data=data)
            swarm._tell(liar, member, sign(swarm.peers[liar].identity, shown))

    watch.hooks.append(ask)


def assert_a_stranger_believes(swarm: VirtualSwarm, peer: PeerID, found: Evidence) -> None:
    """What this peer holds convinces whoever has the file of it and the manifest."""
    rules = Rules(np.dtype("<i2"), CHUNK, lambda update, weight: not swarm.insane(update, weight))
    evidence = portable(swarm.machine(peer).history.run, found)
    assert found.against in examine(PortableEvidence.parse(evidence.encode()), rules)


def assert_owner_is_convicted(watch: Watch, peer: PeerID, liar: PeerID) -> None:
    """Of its sum, by the statement in which it published it, its receipt, and what everyone sent it."""
    found = [one for one in watch.swarm.machine(peer).evidence if one.kind == "sum"]
    assert found
    for one in found:
        assert_a_stranger_believes(watch.swarm, peer, one)
        published = open_signed(one.statements[0], PartSum)
        assert published.signer == liar == one.against
        (proposed,) = [raw for raw in one.statements if domain_of(raw) == SurvivorSet.DOMAIN]
        receipts = [open_signed(raw, Receipt) for raw in open_signed(proposed, SurvivorSet).message.receipts]
        (named,) = [each for each in receipts if each.message.part == published.message.part]
        assert named.signer == liar
        told = [open_signed(raw, Shown) for raw in one.statements if domain_of(raw) == Shown.DOMAIN]
        assert told
        headers = dict(zip(named.message.senders, named.message.headers, strict=True))
        for each in told:
            assert open_signed(each.message.header, Part).message.digest() == headers[each.signer]
        assert {each.message.session for each in told} == {published.message.session}
