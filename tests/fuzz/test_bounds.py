"""What a refusal may cost: memory is a small multiple of the input's bound; steps are counted, not timed."""

import sys
import tracemalloc
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest

from proto.canonical import Message
from proto.errors import SwarmError
from secagg.messages import Advert, Part, ShareLists
from swarm.manifest import MAX_MANIFEST, parse_manifest
from tests.fuzz import seeds
from tests.fuzz.mutate import try_all
from tests.verify.chain import PEERS
from verify.checkpoint import MAX_NOTE, read_checkpoint, read_cosignatures
from verify.commitment import SliceOpening
from verify.evidence import PortableEvidence
from verify.record import Genesis, Record


def peak(act: Callable[[], object]) -> int:
    """Bytes that were held at most."""
    tracemalloc.start()
    try:
        act()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def array(item: bytes, size: int) -> bytes:
    """An array of as many items as fit so many bytes."""
    count = (size - 5) // len(item)
    return b"\x9a" + count.to_bytes(4, "big") + item * count


def of_keys(size: int) -> bytes:
    """A map of as many different keys as fit so many bytes."""
    count = (size - 5) // 6
    return (
        b"\xba"
        + count.to_bytes(4, "big")
        + b"".join(b"\x64%04x\xf6" % key for key in range(min(count, 1 << 16)))
    )


WORST: dict[str, Callable[[int], bytes]] = {
    "nulls": lambda size: array(b"\xf6", size),
    "lists": lambda size: array(b"\x80", size),
    "maps": lambda size: array(b"\xa0", size),
    "nested": lambda size: array(b"\x81" * 13 + b"\x80", size),
    "texts": lambda size: array(b"\x61a", size),
    "numbers": lambda size: array(b"\x1b" + bytes([127]) * 8, size),
    "keys": of_keys,
    "depth": lambda size: b"\x81" * size,
    "a text": lambda size: b"\x7a" + (size - 5).to_bytes(4, "big") + b"a" * (size - 5),
    "counts": lambda size: b"\x9b" + b"\x7f" + b"\xff" * 7 + b"\x9b\x00\x00\x00\x00\xff\xff\xff\xff" * 12,
}


@pytest.mark.parametrize("shape", WORST)
def test_the_worst_of_bytes_takes_no_more_memory_than_a_few_messages(shape: str) -> None:
    """A body of the largest size, of kinds with long lists and with short ones, made to be dear to decode."""
    for kind in (SliceOpening, Part, Record, ShareLists, Genesis, Advert):
        size = min(kind.MOST_BYTES, 2 << 20)
        for raw in (WORST[shape](size), in_a_field(kind, WORST[shape](size - 200))):
            used = peak(lambda kind=kind, raw=raw: try_all(kind.parse, [raw]))  # type: ignore[misc]
            assert used < (24 << 20) + 4 * size, f"{kind.__qualname__}: {used >> 20} MiB"


def in_a_field(kind: type[Message], item: bytes) -> bytes:
    """The item as the value of a message's last field: what came before it is in order."""
    name = max(kind.model_fields, key=lambda field: (len(field), field)).encode()
    return b"\xa1" + bytes([0x60 | len(name) if len(name) < 24 else 0x77]) + name[:23] + item


def test_a_file_of_evidence_that_is_none_costs_no_more_than_its_bytes() -> None:
    for shape, make in WORST.items():
        raw = make(16 << 20)
        used = peak(lambda raw=raw: try_all(PortableEvidence.parse, [raw]))  # type: ignore[misc]
        assert used < 3 * (16 << 20), f"{shape}: {used >> 20} MiB"


class TooManySteps(Exception):
    """More lines of Python were run than an input may cost."""


def within(steps: int, act: Callable[[], object]) -> None:
    """Run it, and raise TooManySteps after so many lines of Python."""
    left = [steps]

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        left[0] -= event == "line"
        if left[0] < 0:
            raise TooManySteps(frame.f_code.co_qualname)
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        act()
    except SwarmError:
        pass
    finally:
        sys.settrace(before)


MANIFESTS: dict[str, Callable[[], bytes]] = {
    "unknown keys": lambda: b"".join(b"k%d=1\n" % at for at in range(7_000)),
    "unknown tables": lambda: b"".join(b"[k%d]\n" % at for at in range(7_000)),
    "unknown keys of a table": lambda: b"[run]\n" + b"".join(b"k%d=1\n" % at for at in range(7_000)),
    "a dotted key": lambda: b"a" + b".a" * 30_000 + b"=1",
    "dotted keys": lambda: b"".join(b"k%d" % at + b".a" * 900 + b"=1\n" for at in range(35)),
    "wrong members": lambda: b"[run]\nstewards=[\n" + b"1,\n" * 20_000 + b"]",
    "brackets": lambda: b"[run]\nstewards=" + b"[" * 60_000,
    "a long number": lambda: b"[run]\nrounds=0x" + b"f" * 60_000,
}


@pytest.mark.parametrize("name", MANIFESTS)
def test_a_manifest_is_refused_in_a_bounded_number_of_steps(name: str) -> None:
    raw = MANIFESTS[name]()
    assert len(raw) <= MAX_MANIFEST
    within(4_000_000, lambda: try_all(parse_manifest, [raw], longest=8_000))


def test_a_note_is_read_in_a_bounded_number_of_steps() -> None:
    whole = seeds.notes()[1].decode()
    body, _, signatures = whole.partition("\n\n")
    full = f"{body}\n\n{signatures * ((MAX_NOTE - len(body) - 2) // len(signatures.encode()))}"
    strangers = f"{body}\n\n" + "— a AAAAAAAA\n" * 4_000
    for text in (full, strangers, "\n" * MAX_NOTE, "a" * MAX_NOTE, f"{body}\n" * 300):
        within(200_000, lambda text=text: read_checkpoint(text, PEERS[0]))  # type: ignore[misc]
        within(200_000, lambda text=text: read_cosignatures(text, PEERS))  # type: ignore[misc]
