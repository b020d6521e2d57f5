"""An auditor with a peer's state computes a wrong update again, and finds what the jurors found."""

import asyncio
import threading
from pathlib import Path

import numpy as np
import pytest

from secagg.messages import Advert
from secagg.ring import CHUNK
from swarm.compute import Compute
from swarm.data import load_dataset
from swarm.genesis import found
from swarm.manifest import parse_manifest
from swarm.order import DataView, draw_order
from swarm.reexecution import NotAtHand, compute_again, replay_orders
from verify.check import convicts
from verify.commitment import ChunkOpening
from verify.identity import Identity
from verify.record import History
from verify.work_evidence import UpdateCase, farthest

MANIFEST = """\
[run]
min_peers = 1
[aggregation]
mode = "plain"
[data]
source = "{data}"
sequence_length = 16
[work]
slices = 1
sequences_per_slice = 2
"""


def test_what_was_computed_is_found_again_and_what_was_not_is_found_out(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("\n\n".join(f"sentence {n} of a small text about nothing" for n in range(200)))
    path = tmp_path / "run.toml"
    path.write_text(MANIFEST.format(data=text))
    identity = Identity.from_seed(bytes(32))
    founded = found(path, identity, tmp_path / "state")
    genesis, run_dir = founded.store.genesis(), founded.store.directory
    founded.store.close()
    assert genesis is not None
    history, manifest = History.begin(genesis), parse_manifest(path.read_bytes())
    data = load_dataset(manifest, path=text, cache=tmp_path / "state" / "cache")
    order = draw_order(history, 0, identity.peer_id, DataView(len(data.sequences)), manifest.work)
    assert (len(order.slices), len(order.slices[0])) == (1, 2)

    async def work() -> np.ndarray:
        compute = Compute(manifest, data, run_dir / "snapshots")
        await compute.prepare()
        await compute.load(history.snapshot)
        made = await compute.train(order, 0.0, threading.Event())
        compute.close()
        return np.array(made.own.encoded(0))

    encoded = asyncio.run(work())
    for bend, holds in ((lambda x: x, False), (lambda x: -x, True)):
        opened = ChunkOpening(
            session=bytes(32),
            slice=0,
            chunk=1,
            salt=bytes(32),
            data=bend(encoded[CHUNK : 2 * CHUNK]).tobytes(),
            proof=(),
        )
        advert = Advert.model_construct(data_root=None, data_count=0)
        opening = type("Opening", (), {"slice": 0})
        read = UpdateCase(advert, opening, (opened,), ())  # type: ignore[arg-type]
        again = compute_again(read, order, manifest, run_dir, text).encoded
        assert again is not None
        assert np.array_equal(again, encoded)
        assert convicts(farthest(read, again, CHUNK), manifest.verification.tolerance) is holds
    following = replay_orders([(order, 1)], manifest, run_dir, text)
    assert following == replay_orders([(order, 1)], manifest, run_dir, text) != history.snapshot
    for snapshot in (run_dir / "snapshots").iterdir():
        snapshot.unlink()
    with pytest.raises(NotAtHand, match="ask a peer that keeps it"):
        compute_again(read, order, manifest, run_dir, text)
