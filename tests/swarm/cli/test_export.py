"""Promises of `swarm-export` for a model in shards: joined from where they are, checked, or named missing."""

import asyncio
import itertools
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from transformers import OPTForCausalLM

from swarm.cli import export
from swarm.cli.demo_report import heldout_loss
from swarm.cli.export import Exported, export_run
from swarm.cli.shard_sources import NothingToExport, download
from swarm.data import load_dataset
from swarm.genesis import Founded, read_genesis
from swarm.library import RunLibrary
from swarm.model import layout_of, read_vector
from swarm.net.peer_record import PeerRecord
from swarm.net.public import PublicServer
from swarm.net.tls import TrustStore
from swarm.shards.slicing import build_shard, join_vectors
from swarm.shards.stage import Stage
from swarm.snapshot import SnapshotCorrupt, path_of, read
from swarm.store import Store
from tests.swarm.sharded import founded, write_text
from verify.identity import Identity, certificate_der, make_certificate


@dataclass(frozen=True)
class Parted:
    """A run whose shards lie in two state folders, one in each."""

    made: Founded
    names: tuple[bytes, ...]
    folders: tuple[Path, Path]

    def file(self, shard: int) -> Path:
        return path_of(self.folders[shard] / "runs" / self.made.run.hex() / "snapshots", self.names[shard])


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Founded:
    folder = tmp_path_factory.mktemp("founded")
    write_text(folder / "text.txt")
    return founded(folder, folder / "text.txt")


@pytest.fixture
def parted(original: Founded, tmp_path: Path) -> Parted:
    history, _ = read_genesis(original.genesis, original.run)
    folders = (tmp_path / "a", tmp_path / "b")
    for folder in folders:
        shutil.copytree(original.store.directory.parents[1], folder)
    for at, folder in enumerate(folders):
        path_of(folder / "runs" / original.run.hex() / "snapshots", history.shards[1 - at]).unlink()
    return Parted(original, history.shards, folders)


def vector_of(directory: Path) -> np.ndarray:
    model = OPTForCausalLM.from_pretrained(directory, local_files_only=True)
    return read_vector(model, layout_of(model))


def test_the_shards_of_two_peers_become_one_model_that_loads(parted: Parted, tmp_path: Path) -> None:
    out = tmp_path / "model"
    done = export_run(parted.folders[0], parted.made.run, out, [parted.folders[1]])
    history, manifest = read_genesis(parted.made.genesis, parted.made.run)
    assert done == Exported(0, history.snapshot, 2)
    params = [read(parted.file(shard), parted.names[shard]).params for shard in (0, 1)]
    assert np.array_equal(vector_of(out), join_vectors(manifest.model, params))


def test_a_runs_own_folder_is_as_good_as_the_state_folder_around_it(parted: Parted, tmp_path: Path) -> None:
    other = parted.folders[0] / "runs" / parted.made.run.hex()
    assert export_run(parted.folders[1], parted.made.run, tmp_path / "model", [other]).shards == 2


@pytest.mark.parametrize("here", [0, 1])
def test_a_shard_that_is_nowhere_is_named(parted: Parted, tmp_path: Path, here: int) -> None:
    with pytest.raises(NothingToExport, match=rf"shard {1 - here} of 2 is missing.*--from DIR.*--join"):
        export_run(parted.folders[here], parted.made.run, tmp_path / "model")
    with pytest.raises(NothingToExport, match="no peer serves it"):
        export_run(parted.folders[here], parted.made.run, tmp_path / "model", (), lambda *_: None)
    assert not (tmp_path / "model").exists()
    assert not list(parted.folders[here].glob("runs/*/shards-*"))


@pytest.mark.parametrize(("moves", "asked"), [(False, 1), (True, 3)])
def test_peers_are_asked_again_only_where_the_run_has_moved_on(
    parted: Parted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moves: bool, asked: int
) -> None:
    history, own = export._history(parted.folders[0], parted.made.run)
    rounds, fetched = itertools.count(), list[object]()
    monkeypatch.setattr(export, "_history", lambda *_: (replace(history, round=next(rounds) * moves), own))
    with pytest.raises(NothingToExport):
        export_run(parted.folders[0], parted.made.run, tmp_path, (), lambda *args: fetched.append(args))
    assert len(fetched) == asked


def test_a_folder_without_the_run_is_named(parted: Parted, tmp_path: Path) -> None:
    with pytest.raises(NothingToExport, match="no state of run"):
        export_run(parted.folders[0], parted.made.run, tmp_path / "model", [tmp_path])


def test_another_peers_shard_is_not_believed(parted: Parted, tmp_path: Path) -> None:
    with parted.file(1).open("r+b") as file:
        file.seek(-9, 2)
        file.write(b"\x99")
    with pytest.raises(SnapshotCorrupt, match="another hash"):
        export_run(parted.folders[0], parted.made.run, tmp_path / "model", [parted.folders[1]])


@dataclass
class Phonebook:
    """What a DHT knows of a run."""

    records: dict[str, PeerRecord]

    async def lookup(self, run: bytes) -> dict[str, PeerRecord]:
        return self.records


def test_a_shard_comes_from_a_peer_that_serves_it(parted: Parted, tmp_path: Path) -> None:
    _, manifest = read_genesis(parted.made.genesis, parted.made.run)

    async def fetched(folder: Path) -> None:
        identity, store = Identity.generate(), Store(parted.folders[1], parted.made.run)
        certificate = make_certificate(identity)
        library = RunLibrary(identity, parted.made.run, store, dict, lambda raw: None, lambda size: None)
        server = PublicServer(TrustStore(certificate), library)
        port = await server.start("127.0.0.1:0")
        address = f"127.0.0.1:{port}"
        record = PeerRecord(
            run_id=parted.made.run,
            public=address,
            members=address,
            certificate=certificate_der(certificate.certificate_pem),
            sequence=1,
            agent="test",
        )
        try:
            book = Phonebook({identity.peer_id: record})
            await download(book, parted.made.run, manifest, dict(enumerate(parted.names)), folder)
        finally:
            await server.stop()
            store.close()

    def fetch(_: object, missing: object, folder: Path) -> None:
        assert missing == {1: parted.names[1]}
        asyncio.run(fetched(folder))

    done = export_run(parted.folders[0], parted.made.run, tmp_path / "model", (), fetch)
    assert done.shards == 2
    assert not (parted.folders[0] / parted.file(1).relative_to(parted.folders[1])).exists()


def test_an_exported_models_held_out_loss_is_that_of_its_parts(parted: Parted, tmp_path: Path) -> None:
    manifest = read_genesis(parted.made.genesis, parted.made.run)[1]
    text = tmp_path / "text.txt"
    write_text(text)
    named = manifest.data.model_copy(update={"source": str(text)})
    manifest = manifest.model_copy(update={"data": named})
    out = tmp_path / "model"
    export_run(parted.folders[0], parted.made.run, out, [parted.folders[1]])
    loss = heldout_loss(out, manifest, tmp_path / "cache")

    stages = [Stage(build_shard(manifest.model, shard, 2)) for shard in (0, 1)]
    for shard, stage in enumerate(stages):
        stage.load(read(parted.file(shard), parted.names[shard]).params)
    held = load_dataset(manifest, path=text, cache=tmp_path / "cache").sample(16)
    tokens, targets = (np.ascontiguousarray(part) for part in (held[:, :-1], held[:, 1:]))
    total = stages[1].evaluate(np.asarray(stages[0].evaluate(tokens)), targets)
    assert loss == pytest.approx(float(total) / tokens.size, rel=1e-6)
