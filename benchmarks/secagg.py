"""Secure aggregation against Flower's SecAgg+ (processor time) and hivemind's all-reduce (wall time).

Ours in process: all members' sessions, from fresh keys to the exact sum at every survivor. Flower: its own
workflow and client mod, in process as well. Wall time: a secure cell of member processes over gRPC and TLS,
hivemind's averagers over their own encrypted streams. Compared systems take turns.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import median
from time import process_time

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from benchmarks.flower import FlowerEnvironment, flower_round
from benchmarks.in_process import Measured, serve
from benchmarks.processes import Group
from benchmarks.report import Report, Row, command_line, progress, ratio
from secagg.masks import SLACK, Mask, Masker, chunk_key
from secagg.ring import CHUNK

Found = tuple[dict[str, float], list[Row]]
"""Figures, and the repetitions behind them."""

SMALL, MIDDLE, LARGE, LARGEST = 100_000, 1_000_000, 10_000_000, 125_000_000
FLOWER = [(n, size, 0) for n in (4, 8, 16) for size in (SMALL, MIDDLE, LARGE)]
DROPPED = [(8, MIDDLE, 2), (16, MIDDLE, 4)]
HIVEMIND = [(n, size) for n in (4, 8) for size in (MIDDLE, LARGE)]
GROWTH = [(n, MIDDLE) for n in (4, 8, 16, 32)] + [(8, size) for size in (LARGE, 40_000_000)]
"""Besides n = 8 with `LARGEST`, which has a measurement of its own."""
WATCHED = [(8, MIDDLE), (8, LARGE)]


def place(members: int, size: int, dropped: int = 0) -> str:
    """How figures name a point: n8_d1M, n8_d1M_dropped2."""
    short = f"{size // 1_000_000}M" if size % 1_000_000 == 0 else f"{size // 1_000}k"
    return f"n{members}_d{short}" + (f"_dropped{dropped}" if dropped else "")


GOALS = {
    **{f"cpu_ratio_flower_{place(*point)}": (">=", 5.0) for point in FLOWER + DROPPED},
    "wall_ratio_hivemind_fp32_n8_d10M": ("<=", 0.8),
    "wall_ratio_hivemind_fp16_n8_d10M": ("<=", 1.0),
    "mask_over_aes": ("<=", 1.3),
    "cpu_seconds_n8_d125M": ("<=", 1.5),
    "memory_over_update_n8_d125M": ("<=", 3.0),
}
STARRED = ("cpu_ratio_flower_n8_d1M", "wall_ratio_hivemind_fp32_n8_d10M", "mask_over_aes")
"""What `--quick` measures too, and what the exit status says."""
NOTES = (
    "cpu_ratio_flower: Flower's processor time over ours, all members and the server together, one thread a "
    "process; the median over rounds taken in turn, after one small round of each that does not count.",
    "Ours includes X25519 keys, a signature on every message, checked by every member for itself, masks from "
    "AES-256 under 256-bit seeds, a hash of every chunk, and the sum at every survivor. Flower's has no "
    "signatures, fills its masks from 32-bit seeds by MT19937, and sums at one server.",
    "Flower's includes quantising float32 at the clients and decoding at the server; ours starts from "
    "encoded updates, as encoding belongs to training. cpu_ratio_flower_coded adds to ours that every "
    "member encodes one slice and decodes the mean.",
    "Dropped members dealt their shares and signed that they are ready; they leave when the masking has "
    "begun and send no part. Flower's leave at the same place.",
    "wall_ratio_hivemind: a secure round from the encoded update to the decoded mean at every member; "
    "wall_ratio_plain: the same over a plain round. On all sides the meeting is left out.",
    "mask_over_aes: Masker.add of 8 masks over 10M int16, chunk keys derived, over AES-256-CTR of the very "
    "same keystreams from given keys. mask_over_single_key_aes: over as many bytes under one key.",
)
FULL_NOTES = (
    "cpu_seconds, growth_cpu_seconds: of one peer. memory_over_update: what the process grew by at its "
    "largest, a peer, over the ring-encoded update; in process a transfer is a copy, so no buffers of "
    "gRPC are in it, and all owners sum before any sum arrives, which is kinder than a network. The largest "
    "cell has 32 members, so growth ends there.",
    "bytes: what sessions send and get, the mean of the members, statements and headers included, TLS and "
    "gRPC's framing not. hivemind's are by its protocol, 2 (n - 1) / n elements each way; not measured.",
    "share: of a peer's processor time in a session. meet: keys and adverts; share, agree, release: "
    "handling these statements; mask and sum hash what leaves, hash is of what arrives; rest is the queue.",
)


def measure(quick: bool) -> Report:
    """Everything; with `quick` the starred figures."""
    steps: list[Callable[[bool], Found]] = [masking, against_flower, against_hivemind]
    if not quick:
        steps += [largest, growth, traffic, phases]
    figures: dict[str, float] = {}
    rows: list[Row] = []
    for step in steps:
        found, repetitions = step(quick)
        figures |= found
        rows += repetitions
    return Report("secagg", figures, GOALS, tuple(rows), NOTES if quick else NOTES + FULL_NOTES)


@contextmanager
def sessions(members: int, size: int, **settings: object) -> Iterator[Callable[[], Measured]]:
    """A fresh process with a cell's sessions in it: each call is a round there."""
    with Group(serve, 1, members, size, settings) as process:
        yield lambda: process.ask("round")[0]


def against_flower(quick: bool) -> Found:
    """Processor time of a whole round, ours and Flower's in turn, at every point."""
    environment = FlowerEnvironment()
    progress("secagg: Flower's environment")
    environment.python()
    figures: dict[str, float] = {}
    rows: list[Row] = []
    for members, size, dropped in [(8, MIDDLE, 0)] if quick else FLOWER + DROPPED:
        where = place(members, size, dropped)
        progress(f"secagg: Flower, {where}")
        ours: list[float] = []
        theirs: list[float] = []
        coding: list[float] = []
        coded = members == 8 and not dropped
        with Group(serve, 1, members, size, {"dropped": dropped}) as process:
            for _ in range(3 if quick or size == LARGE else 5):
                theirs.append(flower_round(members, size, dropped, 1, environment)[0].cpu_seconds)
                ours.append(process.ask("round")[0].cpu_seconds)
                if coded:
                    coding.append(process.ask("coding")[0])
        figures[f"cpu_ratio_flower_{where}"] = ratio(theirs, ours)
        rows += [Row(f"ours {where} CPU", "s", tuple(ours)), Row(f"Flower {where} CPU", "s", tuple(theirs))]
        if coded:
            both = [one + code for one, code in zip(ours, coding, strict=True)]
            figures[f"cpu_ratio_flower_coded_{where}"] = ratio(theirs, both)
            rows.append(Row(f"coding {where} CPU", "s", tuple(coding)))
    return figures, rows


def against_hivemind(quick: bool) -> Found:
    """Wall time of a whole round: secure, plain, and hivemind's, in turn."""
    # Not above: hivemind brings torch, which would be in every process that is measured here.
    from benchmarks.averaging import compare

    figures: dict[str, float] = {}
    rows: list[Row] = []
    ours = {"secure": True} if quick else {"secure": True, "plain": False}
    compressions = ("fp32",) if quick else ("fp32", "fp16")
    for members, size in [(8, LARGE)] if quick else HIVEMIND:
        where = place(members, size)
        progress(f"secagg: hivemind, {where}")
        wall, cpu, failures = compare(members, size, compressions, 3 if quick else 5, ours)
        if failures:
            progress(f"secagg: {failures} of hivemind's rounds lost parts of the mean and were taken again")
        for system, values in wall.items():
            rows += [
                Row(f"{system} {where}", "s", tuple(values)),
                Row(f"{system} {where} CPU", "s", tuple(cpu[system])),
            ]
            if system != "secure":
                name = f"{system.replace(' ', '_')}_{where}"
                figures[f"wall_ratio_{name}"] = ratio(wall["secure"], values)
                figures[f"cpu_ratio_{name}"] = ratio(cpu["secure"], cpu[system])
    return figures, rows


def masking(quick: bool) -> Found:
    """Masks added to a vector, over the same keystreams made and thrown away."""
    progress("secagg: masking")
    vector = np.zeros(LARGE // CHUNK * CHUNK, np.int16)
    masks = [(bytes([seed]) * 32, 1 if seed % 2 else -1) for seed in range(8)]
    seconds: dict[str, list[float]] = {"masking": [], "AES": [], "AES, one key": []}
    for _ in range(9 if quick else 25):
        seconds["masking"].append(_spent(lambda: add_masks(vector, masks)))
        keys = keys_of(len(vector), masks)
        seconds["AES"].append(_spent(lambda keys=keys: aes(keys)))  # type: ignore[misc]
        seconds["AES, one key"].append(_spent(lambda keys=keys: aes_single_key(keys)))  # type: ignore[misc]
    figures = {
        "mask_over_aes": ratio(seconds["masking"], seconds["AES"]),
        "mask_over_single_key_aes": ratio(seconds["masking"], seconds["AES, one key"]),
    }
    return figures, [Row(f"{name} n8_d10M CPU", "s", tuple(values)) for name, values in seconds.items()]


def add_masks(vector: np.ndarray, masks: list[Mask]) -> None:
    """What a member's masking does, but for hashing what comes out."""
    masker = Masker(vector.dtype, CHUNK)
    for index, at in enumerate(range(0, len(vector), CHUNK)):
        masker.add(vector[at : at + CHUNK], index, masks)


def keys_of(size: int, masks: list[Mask]) -> list[bytes]:
    """The chunk keys of these masks, in the order in which a vector of `size` elements uses them."""
    return [chunk_key(seed, index) for index in range(-(-size // CHUNK)) for seed, _ in masks]


def aes(keys: list[bytes], out: Callable[[memoryview], None] = lambda stream: None) -> None:
    """The keystreams of whole int16 chunks, one a key, into one buffer; `out` may look at each."""
    zeros, buffer = bytes(2 * CHUNK), memoryview(bytearray(2 * CHUNK + SLACK))
    for key in keys:
        Cipher(algorithms.AES256(key), modes.CTR(bytes(16))).encryptor().update_into(zeros, buffer)
        out(buffer[: 2 * CHUNK])


def aes_single_key(keys: list[bytes]) -> None:
    """As many bytes, from the first key alone."""
    zeros, buffer = bytes(2 * CHUNK), memoryview(bytearray(2 * CHUNK + SLACK))
    encryptor = Cipher(algorithms.AES256(keys[0]), modes.CTR(bytes(16))).encryptor()
    for _ in keys:
        encryptor.update_into(zeros, buffer)


def _spent(work: Callable[[], None]) -> float:
    before = process_time()
    work()
    return process_time() - before


def largest(_: bool) -> Found:
    """Processor time and memory a peer where updates are largest."""
    members, where = 8, place(8, LARGEST)
    progress(f"secagg: {where}")
    with sessions(members, LARGEST) as take:
        rounds = [take() for _ in range(2)]
    each = tuple(one.cpu_seconds / members for one in rounds)
    memory = max(one.memory for one in rounds) / members
    figures = {
        f"cpu_seconds_{where}": median(each),
        f"memory_over_update_{where}": memory / (2 * LARGEST),
        **_growth_figures(where, members, rounds),
    }
    return figures, [Row(f"a peer {where} CPU", "s", each)]


def growth(_: bool) -> Found:
    """Processor time and bytes a peer, by members and by elements."""
    figures: dict[str, float] = {}
    for members, size in GROWTH:
        where = place(members, size)
        progress(f"secagg: growth, {where}")
        with sessions(members, size) as take:
            figures |= _growth_figures(where, members, [take() for _ in range(3)])
    return figures, []


def _growth_figures(where: str, members: int, rounds: list[Measured]) -> dict[str, float]:
    return {
        f"growth_cpu_seconds_{where}": median(one.cpu_seconds for one in rounds) / members,
        f"growth_megabytes_{where}": sum(rounds[0].up.values()) / 1e6,
    }


def traffic(_: bool) -> Found:
    """Bytes a peer sends and gets for each element, beside hivemind's."""
    members, size = 8, MIDDLE
    figures: dict[str, float] = {}
    for bits in (16, 32):
        with sessions(members, size, bits=bits) as take:
            one = take()
        for way, sent in (("up", one.up), ("down", one.down)):
            figures[f"bytes_{way}_per_element_k{bits}_{place(members, size)}"] = sum(sent.values()) / size
        data = sum(one.up[kind] for kind in ("part", "part-sum"))
        figures[f"statement_bytes_per_element_k{bits}_{place(members, size)}"] = (
            sum(one.up.values()) - data
        ) / size
    for name, width in (("fp32", 4), ("fp16", 2)):
        figures[f"bytes_each_way_per_element_hivemind_{name}_n{members}"] = (
            2 * (members - 1) / members * width
        )
    return figures, []


def phases(_: bool) -> Found:
    """What a session's processor time goes into."""
    figures: dict[str, float] = {}
    for members, size in WATCHED:
        where = place(members, size)
        progress(f"secagg: phases, {where}")
        with sessions(members, size, watched=True) as take:
            rounds = [take() for _ in range(3)]
        total = sum(one.cpu_seconds for one in rounds)
        spent = {name: sum(one.seconds[name] for one in rounds) for name in rounds[0].seconds}
        for name in sorted(spent, key=lambda name: -spent[name]):
            figures[f"share_{name}_{where}"] = spent[name] / total
    return figures, []


def main() -> int:
    """The command; its exit status: 1 if a starred figure misses its goal."""
    found: list[Report] = []

    def keep(quick: bool) -> Report:
        found.append(measure(quick))
        return found[0]

    command_line("secagg", keep, __doc__ or "")
    return int(any(name in STARRED for name in found[0].missed()))


if __name__ == "__main__":
    sys.exit(main())
