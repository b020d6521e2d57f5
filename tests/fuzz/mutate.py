"""A seeded mutator: from valid inputs to nearly valid ones, the same on every machine.

Two ways, half of the time each. `bent` works on bytes: bits, lengths, types, cuts, splices. `changed` works
on the CBOR value and encodes it again in the deterministic form, so that it passes the form's checks and
meets those behind it; it reaches into statements and messages inside byte strings, and signs what it changed
anew with a key of `keys`, half of the time.
"""

import os
import random
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import cbor2

from proto.canonical import tagged
from proto.errors import SwarmError
from verify.identity import Identity

MORE = max(1, int(os.environ.get("EDGESWARM_FUZZ", "1")))
"""`EDGESWARM_FUZZ=100 pytest tests/fuzz` tries a hundred times as many inputs."""
START = int(os.environ.get("EDGESWARM_FUZZ_SEED", "0"))
"""`EDGESWARM_FUZZ_SEED=7` tries others than the usual ones."""

ODD_NUMBERS = (0, 1, 2, 23, 24, 31, 32, 33, 255, 256, 1 << 16, (1 << 31) - 1, 1 << 32, (1 << 63) - 1, 1 << 63)
_ODD = """00 20 40 60 80 a0 f4 f5 f6 f7 e0 f8ff f97e00 fb7ff0000000000000 1bffffffffffffffff 9f ff bf 1800
190001 5800 3bffffffffffffffff 9bffffffffffffffff bb7fffffffffffffff 5bffffffffffffffff 7a7fffffff 9a000fffff
c24101 c482016101 5f41ff 818181818181818181818181818181818180 a1a001 a2616101616102 61ff"""
ODD_ITEMS = [bytes.fromhex(item) for item in _ODD.split()]
"""CBOR that is odd in one way each: huge counts, tags, indefinite lengths, long forms, depth, double keys."""
STATEMENT = b"\x84"
Keys = Mapping[str, Identity]


class Mutator:
    """Endless inputs from seeds; `name` and START choose the sequence.

    `keys`: who signs what was changed, with a chance of `signs`.
    """

    def __init__(
        self, name: str, seeds: Sequence[bytes], keys: Keys | None = None, signs: float = 0.5
    ) -> None:
        self.random = random.Random(zlib.crc32(f"{name} {START}".encode()))
        self.seeds, self._keys = list(seeds), dict(keys or {})
        self._signers, self._signs = sorted(self._keys), signs

    def inputs(self, count: int) -> Iterator[bytes]:
        """The seeds, then so many mutated ones (times MORE)."""
        yield from self.seeds
        for _ in range(count * MORE):
            yield self.mutated(self.random.choice(self.seeds))

    def mutated(self, raw: bytes) -> bytes:
        """One or a few changes to an input."""
        for _ in range(1 if self.random.random() < 0.7 else self._below(3) + 1):
            raw = self.bent(raw) if self.random.random() < 0.5 else self.changed(raw)
        return raw

    # -- bytes ------------------------------------------------------------------------------------------

    def bent(self, raw: bytes) -> bytes:
        """Another byte string."""
        data = bytearray(raw)
        at = self._below(len(data) + 1)
        match self._below(11):
            case 0 if at < len(data):
                data[at] ^= 1 << self._below(8)
            case 1 if at < len(data):
                data[at] = self._below(256)
            case 2:
                del data[at:]
            case 3:
                del data[at : at + self._size()]
            case 4:
                data[at:at] = data[at : at + self._size()]
            case 5:
                data[at:at] = self.random.randbytes(self._size())
            case 6:
                other = self.random.choice(self.seeds)
                data[at:] = other[self._below(len(other) + 1) :]
            case 7:
                width = 1 << self._below(4)
                number = self.random.choice(ODD_NUMBERS) % (1 << 8 * width)
                data[at : at + width] = number.to_bytes(width, self.random.choice(("big", "little")))
            case 8:
                data[at : at + self._below(2)] = self.random.choice(ODD_ITEMS)
            case 9:
                self._bend_head(data)
            case _:
                end = at + self._size()
                data[at:end] = data[end : end + self._size()] + data[at:end]
        return bytes(data)

    def _bend_head(self, data: bytearray) -> None:
        """Change the type, the count or the form of one CBOR item."""
        heads = _heads(data)
        if not heads:
            return
        at = self.random.choice(heads)
        major, value = data[at] & 0xE0, data[at] & 31
        match self._below(4):
            case 0:
                data[at] = self._below(8) << 5 | value
            case 1 if value < 24:
                data[at] = major | (value + self.random.choice((-1, 1))) % 24
            case 2 if value < 24:  # a longer form of the same number
                width = self._below(4)
                data[at : at + 1] = bytes([major | 24 + width]) + value.to_bytes(1 << width, "big")
            case _:
                width = self._below(4)
                number = self.random.choice(ODD_NUMBERS) % (1 << 8 * (1 << width))
                data[at : at + 1] = bytes([major | 24 + width]) + number.to_bytes(1 << width, "big")

    # -- values -----------------------------------------------------------------------------------------

    def changed(self, raw: bytes) -> bytes:
        """The same value but for one change somewhere in it, in the deterministic form."""
        try:
            value = cbor2.loads(raw)
            if raw[:1] == STATEMENT and _is_statement(value):
                return self._restated(value)
            return cbor2.dumps(self._change(value), canonical=True)
        except (cbor2.CBORError, ValueError, TypeError, OverflowError, RecursionError):
            return self.bent(raw)

    def _restated(self, value: list[Any]) -> bytes:
        domain, signer, body, signature = value
        match self._below(12):
            case 0:
                return cbor2.dumps(self._change(value))
            case 1:
                signer = self.random.choice(self._signers or [signer])
            case 2:
                domain = str(self._leaf(domain))
            case _:
                body = self.mutated(body)
        if signer in self._keys and self.random.random() < self._signs:
            signature = self._keys[signer].sign_raw(tagged(domain) + body)
        return cbor2.dumps([domain, signer, body, signature])

    def _change(self, value: Any) -> Any:
        if self.random.random() < 0.03:
            return self._stranger()
        if isinstance(value, dict) and value:
            return self._change_map(dict(value))
        if isinstance(value, list | tuple):
            return self._change_list(list(value))
        return self._leaf(value)

    def _change_map(self, value: dict[Any, Any]) -> dict[Any, Any]:
        key = self.random.choice(list(value))
        match self._below(16):
            case 0:
                del value[key]
            case 1:
                value[self._leaf(key)] = value.pop(key)
            case 2:
                other = self.random.choice(list(value))
                value[key], value[other] = value[other], value[key]
            case 3:
                value[self._leaf("more")] = self._stranger()
            case _:
                value[key] = self._change(value[key])
        return value

    def _change_list(self, value: list[Any]) -> list[Any]:
        at = self._below(len(value) + 1)
        match self._below(9):
            case 0:
                del value[at : at + 1]
            case 1:
                value[at:at] = value[at : at + 1]
            case 2:
                value[at:at] = [self._stranger()]
            case 3 if len(value) > 1:
                other = self._below(len(value))
                value[at - 1], value[other] = value[other], value[at - 1]
            case 4:
                del value[at:]
            case 5:
                value += value[: 40 - len(value)] if len(value) < 40 else []
            case _ if at < len(value):
                value[at] = self._change(value[at])
        return value

    def _leaf(self, value: Any) -> Any:
        """Another number, text or byte string, mostly of the same type."""
        if isinstance(value, bool) or value is None:
            return self.random.choice((True, False, None, 0, b"", bytes(32)))
        if isinstance(value, int):
            return self.random.choice((value + 1, value - 1, -value, value * 2, *ODD_NUMBERS))
        if isinstance(value, str):
            made = self.bent(value.encode()).decode(errors="replace")
            return self.random.choice(
                (made, value + "\x1b[2J", value.upper(), value[:-1], "", self._signer(value))
            )
        if isinstance(value, bytes):
            nested = len(value) > 40 and value[0] >> 5 in (4, 5) and self.random.random() < 0.9
            return self.mutated(value) if nested else self._octets(value)
        return self._stranger()

    def _octets(self, value: bytes) -> bytes:
        same = self.random.randbytes(len(value))
        return self.random.choice((self.bent(value), bytes(len(value)), same, value[:-1], value + b"\0", b""))

    def _signer(self, value: str) -> str:
        return self.random.choice(self._signers) if self._signers else value

    def _stranger(self) -> Any:
        """Some value that does not belong there."""
        choices = (
            None,
            True,
            0,
            -1,
            1 << 64,
            1.5,
            "",
            "a",
            b"",
            bytes(32),
            [],
            {},
            [[]],
            {"a": 1},
            [None] * 40,
        )
        return self.random.choice(choices)

    # -- numbers ----------------------------------------------------------------------------------------

    def _below(self, bound: int) -> int:
        return int(self.random.random() * bound)

    def _size(self) -> int:
        """Mostly a few bytes, now and then many."""
        return 1 << self._below(4) if self.random.random() < 0.9 else self._below(300)


class Outcomes:
    """How often inputs were taken, and what the others were refused with."""

    def __init__(self) -> None:
        self.taken, self.refused = 0, 0
        self.reasons: set[str] = set()

    def check(self, various: int, taken: int = 1) -> None:
        """A fuzz that only ever meets the first test of a parser shows little."""
        assert self.taken >= taken, "no input was taken: the seeds are stale"
        assert len(self.reasons) >= various, sorted(self.reasons)


def try_all(parse: Callable[[bytes], object], inputs: Iterable[bytes], longest: int = 1_000) -> Outcomes:
    """Give every input to a parser. It returns, or raises a named refusal that can be shown to anybody.

    `longest`: characters of a refusal; what a peer sent must not come back by the megabyte.
    """
    outcomes = Outcomes()
    for raw in inputs:
        try:
            parse(raw)
        except SwarmError as refusal:
            said = str(refusal)
            outcomes.refused += 1
            outcomes.reasons.add(_kind(said))
            assert 0 < len(said) <= longest, (raw.hex(), said)
            assert said.replace("\n", "").isprintable(), (raw.hex(), said)
        except Exception as error:
            error.add_note(f"the input, in hex: {raw.hex()}")
            raise
        else:
            outcomes.taken += 1
    return outcomes


def canonical(parse: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    """The parser, with a check that what it takes encodes to the bytes it was."""

    def parsed(raw: bytes) -> Any:
        message = parse(raw)
        assert message.encode() == raw, raw.hex()
        return message

    return parsed


def text_of(read: Callable[[str], object]) -> Callable[[bytes], object]:
    """A parser of text, given bytes: what is no UTF-8 never gets to it."""
    return lambda raw: read(raw.decode(errors="replace"))


def _kind(said: str) -> str:
    """A refusal without its values."""
    words = (word.strip(".,:;()'\"") for word in said[:160].split())
    return " ".join(word for word in words if word.isalpha() and word.isascii() and len(word) < 20)


def _is_statement(value: Any) -> bool:
    return isinstance(value, list) and [type(item) for item in value] == [str, str, bytes, bytes]


def _heads(data: bytes | bytearray) -> list[int]:
    """Where CBOR items begin, up to the first 400."""
    at, found = 0, []
    while at < len(data) and len(found) < 400:
        found.append(at)
        major, value = data[at] >> 5, data[at] & 31
        at += 1
        if 24 <= value < 28:
            width = 1 << (value - 24)
            value = int.from_bytes(data[at : at + width], "big")
            at += width
        at += value if major in (2, 3) else 0
    return found
