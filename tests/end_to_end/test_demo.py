"""The demo as a user runs it, and what a stranger sees of a live swarm."""

import json
import subprocess
import sys
from pathlib import Path

from tests.end_to_end.small_run import write_text

MANIFEST = """\
[data]
source = "{data}"
sequence_length = 32
[work]
slices = 16
sequences_per_slice = 16
window_seconds = 2.5
[outer]
learning_rate = 1e-2
warmup_rounds = 2
[membership]
round_timeout_seconds = 12.0
"""
ROUNDS = 16


def test_four_peers_and_a_fifth_that_joins_mid_run_end_on_one_snapshot(tmp_path: Path) -> None:
    data, manifest, out = tmp_path / "text.txt", tmp_path / "run.toml", tmp_path / "demo"
    write_text(data)
    manifest.write_text(MANIFEST.format(data=data))
    demo = [sys.executable, "-m", "swarm.cli.demo", "--manifest", str(manifest), "--out", str(out)]
    ran = subprocess.run(
        [*demo, "--rounds", str(ROUNDS), "--join-late", "1"], capture_output=True, text=True, timeout=400
    )
    assert ran.returncode == 0, ran.stdout[-2000:] + ran.stderr[-2000:]
    summary = json.loads((out / "summary.json").read_text())
    assert summary["leftovers"] == 0
    assert len(summary["peers"]) == 5
    assert len({peer["snapshot_hash"] for peer in summary["peers"]}) == 1
    assert max(entry["survivors"] for entry in summary["rounds"]) == 5
    assert [entry["round"] for entry in summary["rounds"]] == list(range(1, ROUNDS + 1))
    assert summary["loss_last"] < summary["loss_first"] - 1
    assert (out / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert_loads(Path(summary["checkpoint"]))


def assert_loads(checkpoint: Path) -> None:
    from transformers import AutoTokenizer, OPTForCausalLM

    model = OPTForCausalLM.from_pretrained(checkpoint)
    assert model.config.hidden_size == 64
    assert AutoTokenizer.from_pretrained(checkpoint)("which of the following")["input_ids"]


SHARDED = (
    MANIFEST.replace("slices = 16", "slices = 8")
    + '[aggregation]\nmode = "plain"\n[verification]\nrate = 0.5\n'
)


def test_two_shards_of_two_peers_train_one_model_and_export_it(tmp_path: Path) -> None:
    data, manifest, out = tmp_path / "text.txt", tmp_path / "run.toml", tmp_path / "demo"
    write_text(data)
    manifest.write_text(SHARDED.format(data=data))
    demo = [sys.executable, "-m", "swarm.cli.demo", "--manifest", str(manifest), "--out", str(out)]
    more = ["--shards", "2", "--peers", "4", "--rounds", "6"]
    ran = subprocess.run([*demo, *more], capture_output=True, text=True, timeout=400)
    assert ran.returncode == 0, ran.stdout[-2000:] + ran.stderr[-2000:]
    summary = json.loads((out / "summary.json").read_text())
    assert summary["leftovers"] == 0
    assert summary["audit"]["ok"]
    assert summary["bans"] == []
    assert len({peer["snapshot_hash"] for peer in summary["peers"]}) == 1
    assert summary["loss_last"] < summary["loss_first"] - 0.3
    assert_loads(Path(summary["checkpoint"]))
