"""Promises of founding: a name covers every shard's weights, and who reads the run finds them again."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import OPTConfig, OPTForCausalLM

from swarm.genesis import Founded, layouts, read_genesis
from swarm.manifest import Manifest, ManifestRefused
from swarm.model import build_model, layout_of, read_vector
from swarm.shards.slicing import EMBEDDINGS, HEAD, CutRefused, split_vector
from swarm.snapshot import Snapshot, path_of, read
from tests.swarm.sharded import founded, write_text
from verify.record import History, whole


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("data") / "text.txt"
    write_text(file)
    return file


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("source")
    torch.manual_seed(0)
    shape = {"hidden_size": 64, "num_attention_heads": 4, "ffn_dim": 128, "max_position_embeddings": 64}
    OPTForCausalLM(OPTConfig(num_hidden_layers=3, word_embed_proj_dim=32, **shape)).save_pretrained(folder)
    return folder


def snapshots_of(made: Founded) -> tuple[History, Manifest, list[Snapshot]]:
    history, manifest = read_genesis(made.genesis, made.run)
    folder = made.store.snapshots
    return history, manifest, [read(path_of(folder, name), name) for name in history.shards]


def test_a_run_in_shards_begins_with_a_snapshot_of_each_and_is_named_by_all(
    tmp_path: Path, text: Path
) -> None:
    made = founded(tmp_path, text)
    history, manifest, snapshots = snapshots_of(made)
    assert history.snapshot == whole(history.shards)
    assert len(set(history.shards)) == 2
    wanted = layouts(manifest.model)
    assert [snapshot.layout for snapshot in snapshots] == [layout.digest for layout in wanted]
    assert all(snapshot.params.any() and not snapshot.m.any() for snapshot in snapshots)
    assert sorted(path.name for path in (tmp_path / "state").iterdir()) == ["cache", "runs"]

    # The two ends of the untied model begin alike, as a tied one has it.
    at = [dict(zip(layout.names, layout.offsets, strict=True)) for layout in wanted]
    size = 50_272 * 64
    first = snapshots[0].params[at[0][EMBEDDINGS] :][:size]
    assert np.array_equal(first, snapshots[1].params[at[1][HEAD] :][:size])


def test_two_runs_of_one_manifest_begin_with_other_weights(tmp_path: Path, text: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    one, other = (snapshots_of(founded(tmp_path / name, text))[0] for name in "ab")
    assert not set(one.shards) & set(other.shards)


def test_a_source_in_shards_begins_with_its_own_weights(tmp_path: Path, text: Path, checkpoint: Path) -> None:
    made = founded(tmp_path, text, f'source = "{checkpoint}"\nlayers = [1, 2]')
    _, manifest, snapshots = snapshots_of(made)
    model = build_model(manifest.model)
    parts = split_vector(manifest.model, read_vector(model, layout_of(model)), 2)
    assert all(np.array_equal(one.params, part) for one, part in zip(snapshots, parts, strict=True))


def test_a_source_that_cannot_be_cut_so_is_refused_and_nothing_is_left(
    tmp_path: Path, text: Path, checkpoint: Path
) -> None:
    with pytest.raises(CutRefused, match=r"no cut of 3 layers into 2 shards"):
        founded(tmp_path, text, f'source = "{checkpoint}"\nlayers = [2, 2]')
    assert not (tmp_path / "state" / "runs").exists()


def test_a_source_whose_boundary_tensors_fit_no_message_is_refused(tmp_path: Path, text: Path) -> None:
    wide = {"hidden_size": 8192, "num_attention_heads": 4, "ffn_dim": 8, "max_position_embeddings": 512}
    OPTConfig(num_hidden_layers=2, word_embed_proj_dim=32, **wide).save_pretrained(tmp_path / "wide")
    model = f'source = "{tmp_path / "wide"}"'
    with pytest.raises(ManifestRefused, match=r"sequence_length: 1 x 255 hidden states of 8192 in fp16"):
        founded(tmp_path, text, model, length=256)
