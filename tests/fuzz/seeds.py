"""Valid inputs to begin from: an example of every message there is, and signed ones of a small chain."""

import importlib
import pkgutil
import random
import re
from datetime import datetime
from functools import lru_cache
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import numpy as np
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtensionOID, NameOID

import proto
import secagg
import swarm
import verify
from proto.canonical import Message, PeerID
from secagg.ring import BLOCK
from swarm.layout import Layout
from swarm.net.peer_record import PeerRecord
from swarm.snapshot import Snapshot, first_snapshot
from tests.fuzz.mutate import Mutator
from tests.verify import chain
from tests.verify.chain import KEYS, PEERS
from verify.checkpoint import Checkpoint, cosign, note_body, origin_of, write_checkpoint
from verify.identity import Identity, public_key_bytes
from verify.ledger import Entry
from verify.record import Goodbye, History
from verify.sketch import WIDTH
from verify.standing import Judgement, Verdict
from verify.statement import sign

RUN = bytes(range(32))
TEXTS = (*PEERS[:6], "pair key", "note", "localhost:80", "[::1]:443", "agent 1", "a")
"""Texts that fit one pattern or another."""


def message_classes() -> list[type[Message]]:
    """Every message of the packages, nested ones too; none that a test made up."""
    packages = (proto, secagg, verify, swarm)
    for package in packages:
        for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
            if not re.search(r"_pb2|\.cli\b", module.name):
                importlib.import_module(module.name)
    names = {package.__name__ for package in packages}
    found, waiting = set[type[Message]](), [Message]
    while waiting:
        for kind in waiting.pop().__subclasses__():
            waiting.append(kind)
            if kind.__module__.split(".")[0] in names and "DOMAIN" in vars(kind):
                found.add(kind)
    return sorted(found, key=lambda kind: (kind.__module__, kind.__qualname__))


@lru_cache(maxsize=256)
def examples(kind: type[Message], count: int = 6) -> tuple[bytes, ...]:
    """Encodings of valid messages of a kind, with short and with longer lists."""
    if kind is Entry:
        return tuple(Entry.of("note", bytes(size)).encode() for size in (0, 1, 40, 50_000))
    if kind is PeerRecord:
        return (peer_record().encode(),)
    choose = random.Random(kind.DOMAIN)
    fields = [
        {name: _value(field.annotation, field.metadata, choose) for name, field in kind.model_fields.items()}
        for _ in range(count)
    ]
    return tuple(kind.model_validate(one).encode() for one in fields)


def _value(annotation: Any, metadata: Any, choose: random.Random) -> Any:
    """A value of a field's type, within its bounds."""
    if get_origin(annotation) is Annotated:
        return _value(annotation.__origin__, annotation.__metadata__, choose)
    bounds = _bounds(metadata)
    low, high = bounds.get("min_length", 0), bounds.get("max_length", 1 << 30)
    inner = get_args(annotation)
    if get_origin(annotation) in (Union, UnionType):
        return _value(choose.choice(inner), (), choose)
    if get_origin(annotation) is Literal:
        return choose.choice(inner)
    if get_origin(annotation) is tuple:
        if inner[-1] is not ...:
            return tuple(_value(one, (), choose) for one in inner)
        count = min(high, low + choose.choice((0, 1, 2, 5)))
        return tuple(_value(inner[0], (), choose) for _ in range(count))
    if annotation is bytes:
        return choose.randbytes(min(high, low + choose.choice((0, 1, 40))))
    if annotation is bool:
        return choose.random() < 0.5
    if annotation is int:
        least = bounds.get("ge", 0)
        most = bounds.get("le", bounds.get("lt", 1 << 63) - 1)
        return choose.choice((least, least + 1, most))
    if annotation is str:
        fitting = [text for text in TEXTS if low <= len(text) <= high]
        pattern = bounds.get("pattern")
        return choose.choice([text for text in fitting if pattern is None or re.search(pattern, text)])
    if isinstance(annotation, type) and issubclass(annotation, Message):
        return choose.choice([annotation.parse(raw) for raw in examples(annotation)])
    assert annotation is type(None), f"no example of {annotation}: add it here"
    return None


def _bounds(metadata: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for item in metadata:
        for part in (item, *(getattr(item, "metadata", None) or ())):
            for name in ("min_length", "max_length", "ge", "lt", "le", "pattern"):
                if getattr(part, name, None) is not None:
                    found[name] = getattr(part, name)
    return found


# -- signed things ----------------------------------------------------------------------------------------


P256 = ec.derive_private_key(12_345, ec.SECP256R1())
VOUCHED = x509.ObjectIdentifier("1.3.6.1.4.1.53594.1.1")
KNOWN = [vars(ExtensionOID)[name] for name in sorted(vars(ExtensionOID)) if name.isupper()]


def peers_word(identity: Identity) -> bytes:
    """What the certificate of P256 says of its peer (libp2p TLS): its key, and a signature by it."""
    der = P256.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    key = bytes.fromhex("08011220") + public_key_bytes(identity.peer_id)
    signature = identity.sign_raw(b"libp2p-tls-handshake:" + der)
    return bytes.fromhex("30680424") + key + bytes.fromhex("0440") + signature


@lru_cache(maxsize=1)
def certificate() -> bytes:
    """The DER of the first peer's certificate, the same each time."""
    usage = x509.KeyUsage(True, False, False, False, False, False, False, False, False)
    builder = _builder(7).add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(usage, critical=True)
    word = x509.UnrecognizedExtension(VOUCHED, peers_word(KEYS[PEERS[0]]))
    return _signed(builder.add_extension(word, critical=False), hashes.SHA256())


def certificate_pem() -> bytes:
    """The same as PEM."""
    return x509.load_der_x509_certificate(certificate()).public_bytes(serialization.Encoding.PEM)


def _builder(serial: int) -> x509.CertificateBuilder:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "peer")])
    builder = x509.CertificateBuilder(name, name, P256.public_key(), serial)
    return builder.not_valid_before(datetime(1975, 1, 1)).not_valid_after(datetime(9999, 12, 31))


def _signed(builder: x509.CertificateBuilder, kind: hashes.SHA256 | hashes.SHA384) -> bytes:
    made = builder.sign(P256, kind, ecdsa_deterministic=True)
    return made.public_bytes(serialization.Encoding.DER)


def odd_certificate(mutator: Mutator, identity: Identity) -> bytes:
    """A certificate that P256 signed, mostly with a peer's true word, and with extensions that may be odd."""
    choose = mutator.random
    builder = _builder(choose.randrange(1, 1 << 100))
    word = peers_word(identity)
    added = {VOUCHED: word if choose.random() < 0.6 else mutator.mutated(word)}
    for _ in range(choose.randrange(3)):
        content = choose.choice(ODD_DER) if choose.random() < 0.5 else mutator.bent(choose.choice(ODD_DER))
        added[choose.choice([*KNOWN, x509.ObjectIdentifier("1.2.3.4")])] = content
    for oid, content in added.items():
        extension = x509.UnrecognizedExtension(oid, content)
        builder = builder.add_extension(extension, critical=choose.random() < 0.3)
    kind = choose.choice((hashes.SHA256(), hashes.SHA256(), hashes.SHA256(), hashes.SHA384()))
    return _signed(builder, kind)


_ODD = """3000 30030101ff 300f0101ff020100 03020780 0302078a 30068204616263ff 040830068004aabbccdd 3003020100
300a86086874747078782f2f 3006a404300230ff 30088704ffffffff8700 300b06092a864886f70d01010b 0500 020101 3080
0c03c3a9ff 30820000 30800000 a0030201ff"""
ODD_DER = [bytes.fromhex(item) for item in _ODD.split()]
"""Values for extensions: some fit some extension, some fit none."""


def peer_record() -> PeerRecord:
    """The first peer's."""
    return PeerRecord(
        run_id=RUN,
        public="127.0.0.1:4000",
        members="peer.example:4001",
        certificate=certificate(),
        sequence=1,
        agent="edgeswarm/0.1",
    )


def notes() -> list[bytes]:
    """Signed heads of a ledger, without and with cosignatures and a stranger's signature."""
    author = PEERS[0]
    found = []
    for size, witnesses in ((1, 0), (77, 1), (1 << 40, 3)):
        head = Checkpoint(origin_of(RUN, author), size, bytes([size % 256]) * 32)
        text = write_checkpoint(head, KEYS[author])
        for witness in PEERS[1 : 1 + witnesses]:
            text += cosign(note_body(text), KEYS[witness], 1_700_000_000 + size % 100)
        found.append(text.encode())
    found.append((text + "— stranger AAAAAAAA\n").encode())
    return found


def verdict(
    history: History, signer: PeerID, checked: PeerID, outcome: str = "clean", round_: int = 0
) -> bytes:
    """A checker's word, for a record."""
    session = bytes([round_]) * 32
    said = {"run": history.run, "round": history.round, "session": session, "checked": checked}
    sketch = None if outcome == "silent" else (1,) * WIDTH
    return sign(
        KEYS[signer], Verdict.model_validate({**said, "slice": 0, "outcome": outcome, "sketch": sketch})
    )


def judgement(
    history: History, signer: PeerID, against: PeerID, holds: bool = True, kind: str = "update"
) -> bytes:
    """A member's finding, for a record."""
    fields = {"run": history.run, "round": history.round, "evidence": bytes(32), "kind": kind}
    return sign(KEYS[signer], Judgement.model_validate({**fields, "against": against, "holds": holds}))


@lru_cache(maxsize=2)
def grown(size: int = 4) -> History:
    """A chain of some records, in which a peer has come and another was judged."""
    history = chain.begin(size, recovery_threshold=1, stewards=tuple(PEERS[:2]))
    history = chain.follow(history, statements=(chain.join(history, PEERS[6]),))
    said = tuple(sorted((verdict(history, PEERS[0], PEERS[1]), judgement(history, PEERS[2], PEERS[1]))))
    return chain.follow(history, statements=said)


def carried(history: History) -> list[bytes]:
    """Statements that the next record may carry."""
    return [
        chain.join(history, PEERS[7]),
        chain.goodbye(history, PEERS[3]),
        verdict(history, PEERS[0], PEERS[2], "silent"),
        judgement(history, PEERS[3], PEERS[1]),
        judgement(history, PEERS[0], PEERS[3], kind="sum"),
        sign(KEYS[PEERS[2]], Goodbye(run=history.run, round=history.round)),
    ]


def outcomes(history: History) -> list[bytes]:
    """What may come next: records without and with statements, a void attempt, a recovery."""
    said = tuple(sorted(carried(history)[:4]))
    members = sorted({*history.members, PEERS[8]})
    return [
        chain.decided(history, chain.record_after(history)),
        chain.decided(history, chain.record_after(history, statements=said)),
        chain.decided(history, chain.record_after(history, survivors=history.members[1:])),
        chain.void(history, attempt=2),
        chain.recovery(history, members, PEERS[:2]),
    ]


@lru_cache(maxsize=1)
def small_snapshot() -> tuple[Snapshot, Layout]:
    """A snapshot of a model with one tensor, and the model's layout."""
    layout = Layout(("w",), ((2 * BLOCK,),), (0,), (False,), 2 * BLOCK)
    return first_snapshot(layout, np.arange(layout.size, dtype=np.float32), 0.5), layout
