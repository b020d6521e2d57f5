"""What colluders see says nothing beyond the sum; what is on the wire is noise; secrets stay inside."""

import base64
from collections.abc import Callable, Iterable, Sequence
from itertools import product
from statistics import NormalDist

import numpy as np
import pytest

from proto.canonical import PeerID
from secagg.interface import Completed, Effect, Failed, SendPart, SendSum, Tell, Wait
from secagg.keys import agree, dealing_seed, pair_seed, public_key, self_seed
from secagg.masks import Mask, add_masks, chunk_key, sum_unmasked
from secagg.messages import (
    Disclosure,
    FinalSet,
    Ready,
    ReadySet,
    Receipt,
    Release,
    SessionMessage,
    SetVote,
    ShareList,
)
from secagg.shamir import split
from secagg.sharing import Dealt, Recovery, Sharing
from tests.secagg.session_network import (
    IDENTITIES,
    Cell,
    Fault,
    Faulty,
    advert_of,
    check,
    secrets_of,
    signed_by,
    threshold_of,
)
from verify.record import colluders
from verify.statement import domain_of

IDS = [identity.peer_id for identity in IDENTITIES]

# -- exact: every choice of masks in a small ring --------------------------------------------------------
#
# Reducing integers modulo a power of two m <= 2^16 is a ring homomorphism: who adds which mask with which
# sign, and what cancels, is the same modulo m, and for a small m all masks can be enumerated. Element e of
# every vector belongs to the e-th choice of all masks that the colluders do not know: one call of
# `add_masks` masks in all these worlds at once. Two inputs look alike if their views, counted over all
# worlds, are the same.


class Toy:
    """A cell of `n` at which the members at the places `bad` collude and own every part, modulo `modulus`."""

    def __init__(self, n: int, bad: Sequence[int], modulus: int) -> None:
        self.peers = IDS[:n]
        self.bad = [self.peers[place] for place in bad]
        self.honest = [peer for peer in self.peers if peer not in self.bad]
        self.modulus, self.session, self.threshold = modulus, b"s" * 32, threshold_of(n)
        adverts = {peer: (b"", advert_of(peer)) for peer in self.peers}
        self.sharings = {
            peer: Sharing(peer, adverts, self.session, secrets_of(peer), self.threshold, 1)
            for peer in self.peers
        }
        dealt = {peer: Dealt(b"", sharing.deal()) for peer, sharing in self.sharings.items()}
        for sharing in self.sharings.values():
            assert sharing.accept(dealt, b"") == {}
        self.masks = {peer: sharing.masks() for peer, sharing in self.sharings.items()}
        known = {seed for peer in self.bad for seed, _ in self.masks[peer]}
        used = [seed for peer in self.honest for seed, _ in self.masks[peer]]
        self.hidden = sorted(set(used) - known)
        honest = len(self.honest)
        assert len(self.hidden) == honest + honest * (honest - 1) // 2, "own masks, and one for each pair"
        self.worlds = modulus ** len(self.hidden)
        number = np.arange(self.worlds)
        self.drawn = {
            seed: (number // modulus**index % modulus).astype(np.int16)
            for index, seed in enumerate(self.hidden)
        }
        self._streams = {chunk_key(seed, 0): drawn for seed, drawn in self.drawn.items()}

    def keystream(self, key: bytes, out: memoryview) -> None:
        """The enumerated values of a mask that is hidden; for one the colluders know, any constant."""
        constant = np.frombuffer(key[:2], np.int16)
        np.frombuffer(out, np.int16, self.worlds)[:] = self._streams.get(key, constant)

    def masked(self, peer: PeerID, value: int, masks: Sequence[Mask] | None = None) -> np.ndarray:
        """What `peer` sends, in every world."""
        vector = np.full(self.worlds, value, np.int16)
        add_masks(vector, 0, self.masks[peer] if masks is None else masks, self.worlds, self.keystream)
        return vector

    def recover(self, survivors: Sequence[PeerID]) -> Recovery:
        """All that comes out for one survivor set, when every member releases what the rules say."""
        recovery = Recovery(self.sharings[self.peers[0]], b"f" * 32, survivors, b"")
        for peer, sharing in self.sharings.items():
            assert recovery.add(peer, sharing.release(b"f" * 32, survivors), b"") == []
        assert recovery.complete
        return recovery

    def revealed(self, recovery: Recovery) -> list[bytes]:
        """The hidden masks' seeds that follow from a recovery: own masks, and all pairs of rebuilt keys."""
        seeds = {self_seed(seed, self.session) for seed in recovery.seeds.values()}
        for owner, key in recovery.keys.items():
            seeds |= {
                pair_seed(agree(key, public_key(secrets_of(other).mask)), self.session, owner, other)
                for other in self.peers
                if other != owner
            }
        return [seed for seed in self.hidden if seed in seeds]

    def total(self, masked: dict[PeerID, np.ndarray], recovery: Recovery) -> np.ndarray:
        """The owners' sum, in every world."""
        out = np.empty(self.worlds, np.int16)
        inputs = [masked[peer] for peer in recovery.survivors]
        sum_unmasked(inputs, 0, recovery.masks(), self.worlds, out, self.keystream)
        return out

    def view(self, columns: Iterable[np.ndarray]) -> bytes:
        """How often each view occurs, as bytes to compare: the worlds' views, sorted."""
        code = np.zeros(self.worlds, np.int64)
        for column in columns:
            code = code * self.modulus + column % self.modulus
        return np.sort(code).tobytes()

    def inputs(self) -> Iterable[tuple[int, ...]]:
        """Every choice of the honest members' updates."""
        return product(range(self.modulus), repeat=len(self.honest))


def views_by_sum(
    toy: Toy,
    survivors: Sequence[PeerID],
    masks_of: Callable[[PeerID], Sequence[Mask]],
    revealed: Sequence[bytes],
    recovery: Recovery | None,
) -> dict[int, set[bytes]]:
    """For each sum of the honest survivors' updates, the different views of the colluders.

    All honest members' masked inputs are in the view: also those of members that are no survivors, whose
    input arrived too late for the receipt.
    """
    known = {peer: toy.masked(peer, 3) for peer in toy.bad}
    sent = {
        (peer, value): toy.masked(peer, value, masks_of(peer))
        for peer in toy.honest
        for value in range(toy.modulus)
    }
    shown = [toy.drawn[seed] for seed in revealed]
    found: dict[int, set[bytes]] = {}
    for values in toy.inputs():
        masked = {peer: sent[peer, value] for peer, value in zip(toy.honest, values, strict=True)}
        total = sum(value for peer, value in zip(toy.honest, values, strict=True) if peer in survivors)
        columns = [*masked.values(), *shown]
        if recovery is not None:
            columns.append(toy.total(masked | known, recovery))
            bad = sum(3 for peer in toy.bad if peer in survivors)
            assert (columns[-1] == total + bad).all(), "the sum is exact in every world"
        found.setdefault(total % toy.modulus, set()).add(toy.view(columns))
    return found


TOYS = [
    pytest.param(3, (), 4, (), id="three, all needed"),
    pytest.param(4, (1,), 4, (), id="four, one colludes"),
    pytest.param(4, (1,), 4, (1,), id="four, the colluder drops out"),
    pytest.param(4, (1,), 4, (0,), id="four, the first drops out"),
    pytest.param(4, (1,), 4, (2,), id="four, the third drops out"),
    pytest.param(4, (1,), 4, (3,), id="four, the last drops out"),
    pytest.param(4, (0,), 4, (2,), id="four, the first colludes"),
    pytest.param(4, (3,), 4, (1,), id="four, the last colludes"),
    pytest.param(5, (2,), 2, (), id="five"),
    pytest.param(5, (2,), 2, (0,), id="five, one drops out"),
    pytest.param(6, (5,), 2, (1, 3), id="six, two drop out"),
]


@pytest.mark.parametrize(("n", "bad", "modulus", "dropped"), TOYS)
def test_colluders_that_own_every_part_learn_the_sum_and_nothing_else(
    n: int, bad: tuple[int, ...], modulus: int, dropped: tuple[int, ...]
) -> None:
    """Exact: inputs with the same sum of the honest survivors give every view equally often."""
    toy = Toy(n, bad, modulus)
    assert len(bad) == colluders(n)
    assert len(bad) < toy.threshold, "the shares of the kind that is not released are too few"
    survivors = [peer for place, peer in enumerate(toy.peers) if place not in dropped]
    assert len(survivors) >= max(3, len(bad) + 2)
    recovery = toy.recover(survivors)
    found = views_by_sum(toy, survivors, toy.masks.__getitem__, toy.revealed(recovery), recovery)
    assert set(found) == set(range(modulus))
    assert all(len(views) == 1 for views in found.values())
    assert len({view for views in found.values() for view in views}) == modulus, "other sums, other views"


def test_before_a_set_is_final_not_even_the_sum_shows() -> None:
    toy = Toy(4, (1,), 4)
    found = views_by_sum(toy, toy.peers, toy.masks.__getitem__, [], None)
    assert len({view for views in found.values() for view in views}) == 1
    assert found.keys() == set(range(4))


@pytest.mark.parametrize("victim", [0, 2, 3])
def test_the_exact_test_fails_where_both_kinds_of_one_members_secrets_come_out(victim: int) -> None:
    """The control: two survivor sets in one session, released both, show the member they differ in."""
    toy = Toy(4, (1,), 4)
    without = [peer for place, peer in enumerate(toy.peers) if place != victim]
    whole = toy.recover(toy.peers)
    both = {*toy.revealed(whole), *toy.revealed(toy.recover(without))}
    found = views_by_sum(toy, toy.peers, toy.masks.__getitem__, sorted(both), whole)
    assert all(len(views) == 4 for views in found.values()), "as many views as the victim's update has values"


def test_the_exact_test_fails_without_own_masks() -> None:
    """The control: with pairs' masks alone, a late input of a member that was left out is open."""
    toy = Toy(4, (1,), 4)
    survivors = [toy.peers[place] for place in (0, 1, 3)]
    revealed = toy.revealed(toy.recover(survivors))
    found = views_by_sum(toy, survivors, lambda peer: toy.masks[peer][1:], revealed, None)
    assert all(len(views) == 4 for views in found.values())


def test_the_exact_test_fails_without_the_pairs_masks() -> None:
    """The control: with own masks alone, every survivor's update is open."""
    toy = Toy(3, (), 4)
    revealed = toy.revealed(toy.recover(toy.peers))
    found = views_by_sum(toy, toy.peers, lambda peer: toy.masks[peer][:1], revealed, None)
    assert all(len(views) == 16 for views in found.values())


# -- statistics: what leaves a member is noise -----------------------------------------------------------

SIZE = 16_384
ALPHA = 1e-9
"""Secrets are fixed, so a run gives the same bytes each time: this is how unlucky they may be."""
SIGMAS = NormalDist().inv_cdf(1 - ALPHA)


def chi_squared(counts: np.ndarray) -> float:
    """Pearson's statistic against a uniform distribution."""
    expected = counts.sum() / len(counts)
    return float(((counts - expected) ** 2 / expected).sum())


def limit(degrees: int) -> float:
    """The chi-squared quantile at 1 - ALPHA, by Wilson and Hilferty (1931).

    Never below it for these degrees: 0.1 percent above for 255, 3 percent for 15, a quarter for one.
    """
    spread = 2 / (9 * degrees)
    return float(degrees * (1 - spread + SIGMAS * spread**0.5) ** 3)


def looks_uniform(data: np.ndarray) -> bool:
    """Whether the bytes, each half's bytes and the highest bits of 16-bit integers look drawn uniformly."""
    words = np.ascontiguousarray(data).view(np.uint16)
    low, high = words & 0xFF, words >> 8
    tests = [(np.concatenate([low, high]), 256), (low, 256), (high, 256), (words >> 15, 2), (words >> 12, 16)]
    return all(chi_squared(np.bincount(values, minlength=bins)) < limit(bins - 1) for values, bins in tests)


def on_the_wire(update: np.ndarray, secure: bool = True, attempt: int = 0) -> dict[PeerID, np.ndarray]:
    """Everyone has the same update: what each sends, where its own part of the vector would be: zeros."""
    peers = IDS[:4]
    vectors = dict.fromkeys(peers, update)
    cell = Cell(4, SIZE, chunk=256, secure=secure, attempt=attempt, vectors=vectors)
    sent = {peer: np.zeros(SIZE, np.int16) for peer in peers}

    def spy(peer: PeerID, effect: Effect) -> bool:
        if isinstance(effect, SendPart):
            sent[peer][cell.sessions[peer].cut.slices[effect.part]] = effect.data
        return True

    cell.on_effect = spy
    cell.run().assert_exact()
    assert len(cell.completed()) == 4
    return sent


def parts_of(sent: dict[PeerID, np.ndarray]) -> list[np.ndarray]:
    """What each sent, without the quarter that is its own part."""
    quarter = SIZE // 4
    return [
        np.delete(vector, np.s_[place * quarter : (place + 1) * quarter])
        for place, vector in enumerate(sent.values())
    ]


UPDATES = {
    "zeros": np.zeros(SIZE, np.int16),
    "all maximal": np.full(SIZE, 2_044, np.int16),
    "all minimal": np.full(SIZE, -2_044, np.int16),
    "a ramp": (np.arange(SIZE) % 4_089 - 2_044).astype(np.int16),
}


@pytest.mark.parametrize("which", UPDATES)
def test_masked_parts_look_uniform_whatever_the_update(which: str) -> None:
    update = UPDATES[which]
    sent = on_the_wire(update)
    for data in parts_of(sent):
        assert looks_uniform(data)
    assert looks_uniform(np.concatenate(parts_of(sent)))
    quarter = SIZE // 4
    for part, owner in enumerate(sent):
        where = slice(part * quarter, (part + 1) * quarter)
        others = [vector[where] for peer, vector in sent.items() if peer != owner]
        assert looks_uniform(np.sum(others, axis=0, dtype=np.int16)), "also their sum at the owner"
    for data in parts_of(on_the_wire(update, secure=False)):
        assert not looks_uniform(data), "the control: plain parts do not"


def test_masked_parts_do_not_correlate_with_the_update_nor_with_each_other() -> None:
    update = UPDATES["a ramp"]
    sent, plain = on_the_wire(update), on_the_wire(update, secure=False)

    def correlation(one: np.ndarray, other: np.ndarray) -> float:
        return abs(float(np.corrcoef(one, other)[0, 1]))

    most = SIGMAS / (len(update) * 3 / 4) ** 0.5
    for masked, bare, own in zip(
        parts_of(sent), parts_of(plain), parts_of(dict.fromkeys(sent, update)), strict=True
    ):
        assert correlation(masked, own) < most
        assert correlation(bare, own) > 0.999, "the control"
    vectors = parts_of(sent)
    for index, one in enumerate(vectors):
        for other in vectors[:index]:
            assert correlation(one, other) < most


def test_another_attempt_masks_the_same_update_with_unrelated_masks() -> None:
    update = UPDATES["a ramp"]
    first, second = parts_of(on_the_wire(update)), parts_of(on_the_wire(update, attempt=1))
    for one, other in zip(first, second, strict=True):
        assert looks_uniform(one - other)


# -- secrets stay inside ---------------------------------------------------------------------------------


def secrets_in(cell: Cell) -> dict[bytes, str]:
    """Every secret of a cell's members, and what is derived from it, with a name for it."""
    session = cell.sessions[cell.peers[0]].id
    threshold, chunks = threshold_of(cell.n), -(-cell.size // cell.chunk)
    found: dict[bytes, str] = {}
    for peer in cell.peers:
        own = secrets_of(peer)
        found |= {getattr(own, name): f"{name} of {peer}" for name in ("seal", "mask", "seed", "dealing")}
        seeds = {"own mask": self_seed(own.seed, session)}
        for other in set(cell.peers) - {peer}:
            theirs = secrets_of(other)
            shared = agree(own.mask, public_key(theirs.mask))
            found[shared] = f"secret of {peer} and {other}"
            found[agree(own.seal, public_key(theirs.seal))] = f"sealing secret of {peer} and {other}"
            seeds[f"mask with {other}"] = pair_seed(shared, session, peer, other)
        for name, seed in seeds.items():
            found |= {chunk_key(seed, index): f"chunk key of {peer}'s {name}" for index in range(chunks)}
            found[seed] = f"{peer}'s {name}"
        for kind, secret in (("mask", own.mask), ("seed", own.seed)):
            entropy = dealing_seed(own.dealing, session, kind)
            found[entropy] = f"dealing of {peer}"
            for holder, share in enumerate(split(secret, threshold, cell.n, entropy)):
                found[share] = f"share {holder} of {peer}'s {kind}"
    return found


def in_text(secret: bytes, text: str) -> bool:
    """Whether a text shows a secret: as Python does, in hex, in base64, or as a number."""
    forms = (repr(secret)[2:-1], secret.hex(), base64.b64encode(secret).decode().rstrip("="))
    return any(form in text for form in forms) or str(int.from_bytes(secret, "big")) in text


class Guard:
    """Reads every byte and every text that leaves a cell's sessions."""

    def __init__(self, cell: Cell) -> None:
        self.cell, self.secrets = cell, secrets_in(cell)
        self.told: set[bytes] = {
            raw for session in cell.sessions.values() for raw, _ in session.adverts.values()
        }
        self.disclosed: dict[PeerID, bytes] = {}
        self.released: set[PeerID] = set()
        self.sent: set[PeerID] = set()

    def __call__(self, peer: PeerID, effect: Effect) -> None:
        match effect:
            case Tell(_, raw):
                if raw not in self.told:
                    self.told.add(raw)
                    self.assert_clean(raw, self.permitted(peer, raw))
            case SendPart() | SendSum():
                self.sent.add(peer)
                self.told.add(effect.header)
                self.assert_clean(effect.header + effect.data.tobytes())
                self.assert_silent(repr(effect))
            case Wait() | Completed() | Failed():
                self.assert_silent(repr(effect))

    def permitted(self, peer: PeerID, raw: bytes) -> set[bytes]:
        """Secrets that this very statement is there to show."""
        domain = domain_of(raw)
        if domain == Disclosure.DOMAIN:
            self.disclosed[peer] = check(raw, Disclosure)[1].key
            return {self.disclosed[peer]}
        if domain != Release.DOMAIN:
            return set()
        self.released.add(peer)
        message, place = check(raw, Release)[1], self.cell.peers.index(peer)
        own = {secrets_of(peer).seed} if message.seed is not None else set()
        dealt = {
            share for share in message.shares if self.secrets.get(share, "").startswith(f"share {place} ")
        }
        return own | dealt

    def assert_clean(self, raw: bytes, permitted: Iterable[bytes] = ()) -> None:
        for secret, name in self.secrets.items():
            assert secret not in raw or secret in permitted, name

    def assert_silent(self, text: str) -> None:
        for secret, name in self.secrets.items():
            assert not in_text(secret, text), name

    def finish(self) -> None:
        """What is left behind when all is over: refusals, outcomes, evidence, and the sessions themselves."""
        self.cell.assert_exact()
        for text in [*self.cell.refusals, *map(repr, self.cell.outcome.values())]:
            self.assert_silent(text)
        for session in self.cell.sessions.values():
            for found in session.evidence:
                for statement in set(found.statements) - self.told:
                    self.assert_clean(statement)
            session.evidence.clear()  # a release in it shows what it is there to show
            self.assert_silent(repr(session))
        assert not self.disclosed.keys() & (self.sent | self.released), "who discloses masks nothing"
        for peer, key in self.disclosed.items():
            assert key in (secrets_of(peer).seal, secrets_of(peer).mask)


Change = Callable[[SessionMessage], SessionMessage]


def guarded(
    cell: Cell, faults: Sequence[Fault] = (), lies: dict[tuple[int, type], Change] | None = None
) -> Guard:
    """Run a cell under guard. `lies`: what a member at a place makes of its statements of a kind."""
    guard = Guard(cell)
    Faulty(cell, faults, guard)
    honestly = cell.on_effect
    changes = {(cell.peers[place], kind.DOMAIN): (kind, lie) for (place, kind), lie in (lies or {}).items()}

    def on_effect(peer: PeerID, effect: Effect) -> bool:
        if isinstance(effect, Tell) and (peer, domain_of(effect.raw)) in changes:
            kind, lie = changes[peer, domain_of(effect.raw)]
            effect = Tell(effect.to, signed_by(peer, lie(check(effect.raw, kind)[1])))
        return honestly(peer, effect)

    cell.on_effect = on_effect
    cell.run()
    guard.finish()
    return guard


def reasons(cell: Cell) -> set[str]:
    """What the members that failed say, without names and numbers."""
    failed = [end.reason for end in cell.outcome.values() if isinstance(end, Failed)]
    return {ending for ending in ENDINGS if any(ending in reason for reason in failed)}


ENDINGS = (
    "dealt shares",
    "are ready",
    "differ",
    "have delivered all parts",
    "signed the survivor set",
    "after share",
    "after ready",
    "after mask",
    "after agree",
    "too few shares",
    "no sum came",
)


def told_at(cell: Cell, kind: type[SessionMessage], place: int) -> list[int]:
    """The numbers of the effects by which a member tells statements of a kind, in a run without faults."""
    own = Faulty(cell).effects[cell.peers[place]]
    cell.run()
    return [at for at, e in enumerate(own) if isinstance(e, Tell) and domain_of(e.raw) == kind.DOMAIN]


def lost(kind: type[SessionMessage], *places: int) -> list[Fault]:
    """Everything that these members of a cell of four say of this kind is lost."""
    return [Fault("lose", place, at) for place in places for at in told_at(Cell(4, 28), kind, place)]


def sealed_garbage(message: SessionMessage) -> SessionMessage:
    assert isinstance(message, ShareList)
    return message.model_copy(update={"sealed": tuple(bytes(len(one)) for one in message.sealed)})


def other_roots(message: SessionMessage) -> SessionMessage:
    assert isinstance(message, ShareList)
    return message.model_copy(update={"pair_roots": tuple(bytes(32) for _ in message.pair_roots)})


def other_share(message: SessionMessage) -> SessionMessage:
    assert isinstance(message, Release)
    return message.model_copy(update={"shares": (bytes(33), *message.shares[1:])})


def test_no_secret_leaves_a_session_however_it_ends() -> None:
    """Every way a session can end, by itself."""
    ends: set[str] = set()
    garbage = {(1, ShareList): sealed_garbage}
    two = {*IDS[2:4]}
    for cell, faults, lies in (
        (Cell(4, 28), [], {}),
        (Cell(4, 28, dead=two), [], {}),
        (Cell(4, 28), [], garbage),
        (Cell(4, 28), [], {(2, ShareList): other_roots}),
        (Cell(4, 28), lost(Ready, 1, 2), {}),
        (Cell(4, 28), lost(ReadySet, 0), {}),
        (Cell(3, 28), [Fault("refuse", 1, 9)], {}),
        (Cell(4, 28), lost(Receipt, 2, 3), {}),
        (Cell(4, 28), lost(SetVote, 2, 3), {}),
        (Cell(4, 28), lost(FinalSet, 0), {}),
        (Cell(4, 28), lost(Release, 2, 3), {}),
        (Cell(4, 28), [], {(3, Release): other_share}),
    ):
        guarded(cell, faults, lies)
        ends |= reasons(cell)
    assert ends == set(ENDINGS)


def test_what_is_disclosed_is_a_key_of_a_member_that_masks_nothing() -> None:
    wronged = guarded(Cell(4, 28), [], {(1, ShareList): sealed_garbage})
    assert set(wronged.disclosed) == set(IDS[:4]) - {IDS[1]}
    assert all(key == secrets_of(peer).seal for peer, key in wronged.disclosed.items())
    assert not wronged.sent
    pairs = guarded(Cell(4, 28), [], {(2, ShareList): other_roots})
    assert all(key == secrets_of(peer).mask for peer, key in pairs.disclosed.items())
    assert set(pairs.disclosed) == set(IDS[:4])
    assert not pairs.sent


@pytest.mark.parametrize("kind", ["die", "lose", "last"])
def test_no_secret_leaves_a_session_whatever_happens_on_the_way(kind: str) -> None:
    effects = Faulty(cell := Cell(4, 28, proposer=1)).effects
    cell.run()
    places = [(place, at) for place, own in enumerate(effects.values()) for at in range(len(own))]
    completed = failed = 0
    for place, at in places[::4]:
        guard = guarded(Cell(4, 28, proposer=1), [Fault(kind, place, at)])
        completed += len(guard.cell.completed())
        failed += len(guard.cell.outcome) - len(guard.cell.completed())
        assert not guard.disclosed
    assert completed > 20
    assert failed > 10


def test_a_session_and_its_effects_show_no_secret_at_any_moment() -> None:
    """`repr` is what ends up in a log. It is looked at with every effect, jobs included."""
    cell = Cell(4, 28)
    guard = Guard(cell)

    def look(peer: PeerID, effect: Effect) -> bool:
        if not isinstance(effect, Tell):
            guard.assert_silent(repr(effect))
        guard.assert_silent(repr(cell.sessions[peer]))
        return True

    cell.on_effect = look
    cell.run()
    assert len(cell.completed()) == 4


def test_the_guard_sees_what_it_should() -> None:
    """The control: each of these is caught."""
    cell = Cell(4, 28)
    guard, own = Guard(cell), secrets_of(IDS[0])
    for leak in (own.seal, own.mask, own.seed, own.dealing):
        with pytest.raises(AssertionError):
            guard.assert_clean(b"x" + leak + b"y")
        for text in (repr(leak), leak.hex(), repr({"key": (leak, 1)}), str(int.from_bytes(leak, "big"))):
            with pytest.raises(AssertionError):
                guard.assert_silent(text)
    lies: list[tuple[type[SessionMessage], str, Change]] = [
        (Release, "mask of", lambda message: message.model_copy(update={"seed": own.mask})),
        (Ready, "seed of", lambda message: message.model_copy(update={"lists": own.seed})),
    ]
    for kind, name, lie in lies:
        with pytest.raises(AssertionError, match=name):
            guarded(Cell(4, 28), [], {(1, kind): lie})
