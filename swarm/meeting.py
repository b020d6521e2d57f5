"""Where a group has formed: which adverts count. The same at all who gathered the same."""

from collections.abc import Mapping, Sequence

from proto.canonical import PeerID
from proto.errors import MessageRefused
from secagg.keys import check_public
from secagg.messages import Advert, Evidence
from swarm.effects import Slot
from swarm.manifest import Manifest
from verify.chains import Confirmation, chains_of, counted_of, two_confirmations
from verify.record import MICRO, History, colluders
from verify.statement import open_signed
from verify.wiring import Wired

MOST_LOSS = 1_000 * MICRO

Adverts = dict[PeerID, tuple[bytes, Advert]]


def believed(
    gathered: Mapping[PeerID, bytes],
    history: History,
    slot: Slot,
    manifest: Manifest,
    wired: Sequence[Wired] = (),
) -> tuple[Adverts, list[MessageRefused]]:
    """The adverts of those who may take part in a session, signed and opened; and why others may not.

    A member that more than c adverts accuse is left out: one of its accusers is honest. `wired`: the
    attempt's chains, in a run of several shards.
    """
    adverts: Adverts = {}
    refusals: list[MessageRefused] = []
    for peer, raw in gathered.items():
        try:
            adverts[peer] = (raw, _check(peer, raw, history, slot, manifest, wired))
        except MessageRefused as refusal:
            refusals.append(refusal)
    accused = [peer for _, advert in adverts.values() for peer in advert.accused]
    may_collude = colluders(len(history.roster))
    kept = {peer: advert for peer, advert in adverts.items() if accused.count(peer) <= may_collude}
    return kept, refusals


def ledger_lies(
    earlier: Mapping[PeerID, tuple[bytes, Advert]], adverts: Mapping[PeerID, tuple[bytes, Advert]]
) -> list[Evidence]:
    """Whose ledger went back, or is another one, since the adverts that this peer saw before."""
    found = []
    for peer, (raw, advert) in adverts.items():
        before_raw, before = earlier.get(peer, (raw, advert))
        if advert.head_size < before.head_size:
            found.append(Evidence("rewound", peer, (before_raw, raw)))
        elif advert.head_size == before.head_size and advert.head_root != before.head_root:
            found.append(Evidence("two heads", peer, (before_raw, raw)))
    return found


def in_whole_chains(adverts: Adverts, wired: Sequence[Wired]) -> Adverts:
    """The adverts without those that rest on a chain which another shard's peers do not count alike.

    A chain counts in every shard or in none. Where one of its peers is not here, or may not take part, the
    others of it stay out of this attempt as well, so that the rest of the swarm goes on.
    """
    chains = {peer: set(chains_of(advert, peer, wired)) for peer, (_, advert) in adverts.items()}
    broken: set[PeerID] | None = None
    while broken is None or broken:
        broken = {
            peer
            for peer, mine in chains.items()
            if any(one not in chains.get(other, ()) for one in mine for other in one.path)
        }
        chains = {peer: mine for peer, mine in chains.items() if peer not in broken}
    return {peer: adverts[peer] for peer in chains}


def two_ways(adverts: Adverts) -> list[Evidence]:
    """Whoever closed a chain in two ways, of adverts whose certificates hold."""
    first: dict[int, bytes] = {}
    found = []
    for _, advert in adverts.values():
        for statements in advert.chains:
            said = open_signed(statements[0], Confirmation)
            kept = first.setdefault(said.message.chain, statements[0])
            lie = two_confirmations(kept, statements[0])
            found += [] if lie is None else [lie]
    return found


def _check(
    peer: PeerID, raw: bytes, history: History, slot: Slot, manifest: Manifest, wired: Sequence[Wired]
) -> Advert:
    signed = open_signed(raw, Advert)
    advert = signed.message
    if signed.signer != peer or peer not in history.roster:
        raise MessageRefused(f"advert: {peer} brought one of {signed.signer}, or is not in the roster")
    named = (advert.run, advert.round, advert.attempt, advert.shard, advert.snapshot)
    shard = history.shard_of(peer)
    if named != (history.run, *slot, shard, history.snapshot_of(shard)):
        raise MessageRefused("advert: for another run, attempt, shard or snapshot")
    if history.shards:
        most = len(wired) * manifest.work.slices
        counted = counted_of(advert, peer, wired)
        if advert.weight != sum(done for _, done in counted):
            raise MessageRefused(f"advert: weight {advert.weight}, which its certificates do not give")
        if any(done > manifest.work.slices for _, done in counted):
            raise MessageRefused(
                f"advert: a certificate of more slices than the {manifest.work.slices} of a chain"
            )
    elif not advert.weight or advert.chains:
        raise MessageRefused("advert: no slice, or chains in a run of one shard")
    else:
        most = manifest.work.slices
    if advert.weight > most:
        raise MessageRefused(f"advert: weight {advert.weight}, an order has {most}")
    a_slice = manifest.work.sequences_per_slice * manifest.data.sequence_length
    if advert.tokens > advert.weight * a_slice or max(advert.loss, advert.heldout) > MOST_LOSS:
        raise MessageRefused("advert: more tokens than its slices hold, or a loss that no model has")
    _check_keys(advert, manifest.aggregation.mode == "secure")
    if list(advert.accused) != sorted(set(advert.accused)):
        raise MessageRefused("advert: the peers it accuses must be named once each, in order")
    if (manifest.data.mode == "own") != (advert.data_root is not None):
        raise MessageRefused(f"advert: its data do not fit data.mode = {manifest.data.mode!r}")
    if advert.data_root is not None and advert.data_count < 1:
        raise MessageRefused(f"advert: {peer} has {advert.data_count} sequences of its own")
    standing, data = history.roster[peer], (advert.data_root, advert.data_count)
    if standing.data_root is not None and (standing.data_root, standing.data_count) != data:
        raise MessageRefused(f"advert: {peer} committed to other data when it joined")
    return advert


def _check_keys(advert: Advert, secure: bool) -> None:
    keys = [key for key in (advert.seal_key, advert.mask_key) if key is not None]
    if len(keys) != (2 if secure else 0) or len(set(keys)) < len(keys):
        raise MessageRefused("advert: a secure run needs two different keys, a plain run none")
    for key in keys:
        check_public(key)
