"""Where a group has formed: which adverts count. The same at all who gathered the same."""

from collections.abc import Mapping

from proto.canonical import PeerID
from proto.errors import MessageRefused
from secagg.keys import check_public
from secagg.messages import Advert, Evidence
from swarm.effects import Slot
from swarm.manifest import Manifest
from verify.record import MICRO, History, colluders
from verify.statement import open_signed

MOST_LOSS = 1_000 * MICRO

Adverts = dict[PeerID, tuple[bytes, Advert]]


def believed(
    gathered: Mapping[PeerID, bytes], history: History, slot: Slot, manifest: Manifest
) -> tuple[Adverts, list[MessageRefused]]:
    """The adverts of those who may take part in a session, signed and opened; and why others may not.

    A member that more than c adverts accuse is left out: one of its accusers is honest.
    """
    adverts: Adverts = {}
    refusals: list[MessageRefused] = []
    for peer, raw in gathered.items():
        try:
            adverts[peer] = (raw, _check(peer, raw, history, slot, manifest))
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


def _check(peer: PeerID, raw: bytes, history: History, slot: Slot, manifest: Manifest) -> Advert:
    signed = open_signed(raw, Advert)
    advert = signed.message
    if signed.signer != peer or peer not in history.roster:
        raise MessageRefused(f"advert: {peer} brought one of {signed.signer}, or is not in the roster")
    named = (advert.run, advert.round, advert.attempt, advert.shard, advert.snapshot)
    if named != (history.run, *slot, 0, history.snapshot):
        raise MessageRefused("advert: for another run, attempt or snapshot")
    if advert.weight > manifest.work.slices:
        raise MessageRefused(f"advert: weight {advert.weight}, an order has {manifest.work.slices}")
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
