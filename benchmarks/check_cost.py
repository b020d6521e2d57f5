"""What commitments and checks cost a peer, beside the training that they are about.

One real session of 8 members over the tiny preset's vector; one member's work is committed to, opened and
checked as in a run. The check's own computing is one slice of the same length as a slice of training.
"""

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from platformdirs import user_cache_path

from benchmarks.in_process import SLICES, InProcess
from secagg.ring import CHUNK
from swarm.compute import WorkFile
from swarm.data import load_dataset
from swarm.effects import OwnWork
from swarm.manifest import parse_manifest
from swarm.model import build_model, layout_of, read_vector
from swarm.openings import Drawn, Openings
from swarm.order import Order
from swarm.snapshot import first_snapshot
from swarm.work import Trainer
from verify import check as checking
from verify.check import Check, Rules
from verify.commitment import Committed, chunk_digests
from verify.lottery import Draw, chunks_to_open, draw
from verify.record import History
from verify.statement import sign

MEMBERS = 8
SIZE_125M = 125_239_296
WINDOW = 20.0
"""Seconds of training in a round, by default."""


def timed(what: Callable[[], Any]) -> tuple[float, Any]:
    """Wall seconds of a call on this thread, and its result."""
    began = time.perf_counter()
    result = what()
    return time.perf_counter() - began, result


def commit(slices: list[np.ndarray], folder: Path) -> tuple[float, OwnWork]:
    """Seconds in which hashing, keeping and committing to an order's slices hold training up, and the work.

    A slice is written while the next one is computed, which takes longer: that time is not counted.
    """
    kept, digests, spent = WorkFile(folder, len(slices[0]), slices[0].dtype), list[list[bytes]](), 0.0
    for encoded in slices:
        took, hashed = timed(lambda encoded=encoded: chunk_digests(encoded, CHUNK))  # type: ignore[misc]
        digests.append(hashed)
        spent += took + timed(lambda encoded=encoded: kept.add(encoded))[0]  # type: ignore[misc]
        kept.finish()
    took, committed = timed(lambda: Committed(bytes(32), digests, os.urandom(32)))
    return spent + took, OwnWork(committed, kept.slice)


def commit_seconds(size: int) -> float:
    """Seconds to commit to four slices of so many elements."""
    random = np.random.default_rng(0)
    slices = [random.integers(-1000, 1000, size, np.int16) for _ in range(SLICES)]
    with tempfile.TemporaryDirectory() as folder:
        return commit(slices, Path(folder))[0]


def slice_seconds() -> tuple[float, int]:
    """Seconds to compute and encode one slice of the tiny preset, and the vector's size."""
    torch.set_num_threads(1)
    manifest = parse_manifest(b"")
    data = load_dataset(manifest, path=None, cache=user_cache_path("edgeswarm") / "benchmarks")
    model = build_model(manifest.model)
    layout = layout_of(model)
    snapshot = first_snapshot(layout, read_vector(model, layout), manifest.aggregation.initial_scale)
    trainer = Trainer(model, manifest.ring, manifest.aggregation.sanity_rms)
    chosen = tuple(range(manifest.work.sequences_per_slice))
    order = Order(bytes(32), 1, 0, 0, snapshot.hash, (chosen,), bytes(32))
    again = [
        timed(lambda: trainer.compute_slice(order, 0, snapshot, data.sequences[list(chosen)]))[0]
        for _ in range(4)
    ]
    return sorted(again)[1], layout.size


def check_seconds(size: int) -> tuple[float, float, int, float]:
    """Of one check: seconds of the checked and of the checker without its computing, bytes opened; of a
    commitment: seconds."""
    random = np.random.default_rng(1)
    slices = [random.integers(-1000, 1000, size, np.int16) for _ in range(SLICES)]
    manifest = parse_manifest(b"")
    with tempfile.TemporaryDirectory() as folder:
        commit(slices, Path(folder))  # the pages of a first file are not a round's
        committing, own = commit(slices, Path(folder))
        total = np.sum(slices, axis=0, dtype=np.int16)
        cell = InProcess(MEMBERS, size, first=(total, own.committed.commitment))
        cell.run()
        checked, checker = cell.peers[0], cell.peers[1]
        transcripts = {peer: cell.sessions[peer].transcript() for peer in (checked, checker)}
        mine, theirs = transcripts[checker], transcripts[checked]
        assert mine is not None
        assert theirs is not None
        opened = chunks_to_open(theirs.chunks, manifest.verification.chunk_fraction)
        drawn = Draw(checked, (checker,), 0, tuple(draw(b"drawn", opened, theirs.chunks)))
        history = History.__new__(History)
        object.__setattr__(history, "roster", dict.fromkeys(cell.peers))
        sessions = {theirs.session: Drawn(theirs, history, 0, own, (drawn,))}
        answering = Openings(
            checked,
            manifest,
            lambda message: sign(cell.identities[checked], message),
            sessions,
            lambda *_: None,  # type: ignore[arg-type,return-value]
            lambda name: None,
            lambda indices: [],
            set[bytes](),
        )
        rules = Rules(manifest.verification.tolerance, manifest.verification.chunk_fraction)
        check = Check(
            drawn, mine, bytes(32), False, rules, lambda message: sign(cell.identities[checker], message)
        )
        check.start()
        comparing, (ask,) = timed(lambda: check.computed(slices[0]))
        assert isinstance(ask, checking.Ask)
        opening, answer = timed(lambda: answering.answer(checker, ask.raw))
        looking, (found,) = timed(lambda: check.answered(answer))
        assert isinstance(found, checking.Found)
        assert found.outcome == "clean", found
        return opening, comparing + looking, sum(map(len, answer)), committing
