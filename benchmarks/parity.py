"""A swarm of four against one process of plain PyTorch AdamW: the same sequences, the same loss.

Four peer processes train the orders that the lottery draws them, encode, and apply the exact integer
sum; one of them runs with 2 threads and one without AVX-512. `torch.optim.AdamW` gets the same initial
weights and, in each round, the very sequences of all four orders as one batch. `loss_gap` is the
relative difference of the final held-out losses, over the whole held-out set (quick: a part of it).
`distinct_hashes` is the most snapshots that the peers ever held after a round; the full run adds a demo
of real peers over the network, of which some are killed and one joins late.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from platformdirs import user_cache_path
from transformers import OPTForCausalLM

from benchmarks.parity_peer import KINDS, Trained, serve
from benchmarks.processes import Group
from benchmarks.report import Report, Row, command_line, progress
from proto.canonical import tagged_hash
from swarm.data import Dataset, load_dataset
from swarm.manifest import Manifest, parse_manifest
from swarm.model import FROZEN, build_model, layout_of, load_vector, read_vector
from swarm.order import DataView, Order, draw_order
from swarm.outer import learning_rate
from swarm.rules import terms
from swarm.snapshot import Snapshot, first_snapshot, path_of, read
from verify.identity import Identity
from verify.record import History
from verify.statement import sign

GOALS = {"loss_gap": ("<=", 0.005), "distinct_hashes": ("==", 1.0)}
MICROBATCH = 2
QUICK_HELDOUT = 192
"""Held-out sequences that `--quick` measures; the full run takes all."""
CACHE = user_cache_path("edgeswarm") / "benchmarks"
NOTES = (
    "The baseline is torch.optim.AdamW on one thread: same initial weights, learning-rate schedule, betas, "
    "eps and weight decay; its batch is the sequences of all four orders, its gradient their mean.",
    "k_proj.bias is frozen in both: its true gradient is zero, and AdamW turns rounding noise into steps.",
    "The four peers: " + ", ".join(kind.name for kind in KINDS) + ". They run the peer's own computing; sums "
    "and orders are made as in a round, without votes or transport.",
)


@dataclass(frozen=True, eq=False)
class Ran:
    """What a swarm did: the most hashes after any round, each round's orders by peer, the last snapshot."""

    distinct: int
    orders: list[list[Order]]
    last: Snapshot

    @property
    def batches(self) -> list[list[int]]:
        """The sequences of each round, all peers' together."""
        return [
            [index for order in orders for chosen in order.slices for index in chosen]
            for orders in self.orders
        ]


def measure(quick: bool) -> Report:
    """Peers in lockstep against the baseline; without `quick` also a demo with kills and a late joiner."""
    rounds, slices, sequences = (18, 2, 3) if quick else (100, 4, 4)
    manifest, raw = manifest_of(rounds, slices, sequences)
    with tempfile.TemporaryDirectory(prefix="edgeswarm-parity-") as folder:
        root = Path(folder)
        torch.set_num_threads(1)
        dataset = load_dataset(manifest, path=None, cache=CACHE)
        model = build_model(manifest.model)
        layout = layout_of(model)
        start = read_vector(model, layout)
        first = first_snapshot(layout, start, manifest.aggregation.initial_scale)
        ran = swarm_of_four(manifest, raw, dataset, first, root)
        load_vector(model, layout, ran.last.params)
        heldout = dataset.heldout[:QUICK_HELDOUT] if quick else dataset.heldout
        ours = evaluate(model, heldout)
        load_vector(model, layout, start)
        before = evaluate(model, heldout)
        progress("parity: the baseline")
        train_plainly(model, manifest, dataset, ran.batches)
        theirs = evaluate(model, heldout)
    figures = {
        "loss_gap": abs(ours - theirs) / theirs,
        "distinct_hashes": float(ran.distinct),
        "loss_swarm": ours,
        "loss_torch": theirs,
        "loss_before": before,
        "rounds": float(rounds),
    }
    rows: tuple[Row, ...] = ()
    if not quick:
        figures |= demo_figures()
        figures["distinct_hashes"] = max(figures["distinct_hashes"], figures["demo_distinct_hashes"])
    return Report("parity", figures, GOALS, rows, NOTES)


def manifest_of(rounds: int, slices: int, sequences: int) -> tuple[Manifest, bytes]:
    """The tiny preset on MMLU, for so many rounds."""
    raw = f"""[run]
rounds = {rounds}
[work]
slices = {slices}
sequences_per_slice = {sequences}
[outer]
learning_rate = 5e-3
warmup_rounds = 5
""".encode()
    return parse_manifest(raw), raw


def swarm_of_four(
    manifest: Manifest,
    raw: bytes,
    dataset: Dataset,
    first: Snapshot,
    root: Path,
    orders: list[list[Order]] | None = None,
    after: Callable[[int, Snapshot], None] | None = None,
) -> Ran:
    """Run all rounds, in files under `root`; they end early where the peers part.

    `orders`: another swarm's, whose sequences and rounding seeds are taken instead of drawing.
    `after(rounds done, snapshot)` is called after each round.
    """
    file = first.write(root)
    identities = [Identity.from_seed(bytes([index + 1]) * 32) for index in range(len(KINDS))]
    history = history_of(manifest, raw, identities, first.hash)
    distinct, done, name = 0, [], first.hash
    environments = [kind.environment for kind in KINDS]
    arguments = (manifest, CACHE, file, root / "peers")
    with Group(serve, len(KINDS), *arguments, environments=environments) as peers:
        peers.told()
        for round_ in range(manifest.run.rounds):
            if orders is None:
                given = [order_of(history, manifest, dataset, one.peer_id) for one in identities]
            else:
                given = [replace(one, run=history.run, snapshot=name) for one in orders[round_]]
            trained: list[Trained] = peers.ask_each(given)
            done.append(given)
            total = np.zeros(len(first.params), manifest.ring.dtype)
            for one in trained:
                np.add(total, one.update, out=total)
            names = peers.ask((total, sum(one.weight for one in trained)))
            distinct, name = max(distinct, len(set(names))), names[0]
            beacon = tagged_hash("beacon", history.beacon, name)
            history = replace(history, round=history.round + 1, beacon=beacon, snapshot=name)
            if round_ % 10 == 9:
                progress(
                    f"four peers: round {round_ + 1} of {manifest.run.rounds}, {len(set(names))} hash(es)"
                )
            if len(set(names)) > 1:
                break  # from here on they would not even accept each other's updates
            if after is not None:
                after(round_ + 1, read(path_of(root / "peers" / "0", name), name))
        last = read(path_of(root / "peers" / "0", name), name)
    return Ran(distinct, done, last)


def history_of(manifest: Manifest, raw: bytes, identities: list[Identity], snapshot: bytes) -> History:
    """The start of a run whose roster is these peers."""
    founder = identities[0]
    genesis = terms(manifest, raw, founder.peer_id, [snapshot], bytes(32), 0)
    members = tuple(sorted(identity.peer_id for identity in identities))
    return History.begin(sign(founder, genesis.model_copy(update={"members": members})))


def order_of(history: History, manifest: Manifest, dataset: Dataset, peer: str) -> Order:
    """What the lottery gives `peer` in the next round."""
    return draw_order(history, 0, peer, DataView(len(dataset.sequences)), manifest.work)


def train_plainly(
    model: OPTForCausalLM,
    manifest: Manifest,
    dataset: Dataset,
    batches: list[list[int]],
    after: Callable[[int], None] | None = None,
) -> None:
    """The baseline: each batch's mean gradient, one step of torch.optim.AdamW, then `after(steps done)`."""
    outer = manifest.outer
    for name, tensor in model.named_parameters():
        tensor.requires_grad_(not name.endswith(FROZEN))
    trained = [tensor for tensor in model.parameters() if tensor.requires_grad]
    optimizer = torch.optim.AdamW(
        trained, lr=1.0, betas=outer.betas, eps=outer.eps, weight_decay=outer.weight_decay
    )
    for round_, batch in enumerate(batches):
        optimizer.param_groups[0]["lr"] = learning_rate(outer, round_, manifest.run.rounds)
        optimizer.zero_grad()
        for loss in losses(model, dataset.sequences[batch]):
            torch.autograd.backward(loss)
        optimizer.step()
        if after is not None:
            after(round_ + 1)


def evaluate(model: OPTForCausalLM, sequences: np.ndarray) -> float:
    """Mean loss in nats a token over sequences, int32 [count, length]."""
    with torch.no_grad():
        return sum(loss.item() for loss in losses(model, sequences))


def losses(model: OPTForCausalLM, sequences: np.ndarray) -> Iterator[torch.Tensor]:
    """Each microbatch's share of the mean loss; they add up to it."""
    tokens = len(sequences) * (sequences.shape[1] - 1)
    for at in range(0, len(sequences), MICROBATCH):
        batch = torch.from_numpy(sequences[at : at + MICROBATCH].astype(np.int64))
        logits = model(input_ids=batch[:, :-1], use_cache=False).logits
        yield F.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten(), reduction="sum") / tokens


def demo_figures() -> dict[str, float]:
    """Four real peers, one that joins late, and kills: what its summary says. Raises CalledProcessError."""
    progress("parity: a demo with kills and a late joiner")
    with tempfile.TemporaryDirectory(prefix="edgeswarm-parity-") as folder:
        arguments = ["--peers", "4", "--rounds", "16", "--join-late", "1", "--kill-every", "25", "--json"]
        out = Path(folder) / "demo"
        command = [sys.executable, "-m", "swarm.cli.demo", *arguments, "--out", str(out)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        summary = json.loads((out / "summary.json").read_text())
    return {
        "demo_distinct_hashes": float(len({peer["snapshot_hash"] for peer in summary["peers"]})),
        "demo_peers": float(len(summary["peers"])),
        "demo_rounds": float(len(summary["rounds"])),
        "demo_attempts_most": float(max(round_["attempts"] for round_ in summary["rounds"])),
    }


if __name__ == "__main__":
    command_line("parity", measure, __doc__ or "")
