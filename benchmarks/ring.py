"""What rounding to the ring costs: the demo's run with 16 bits, with 32 bits, and averaged in fp32.

The same initial weights, the same sequences in the same rounds, the same learning rates. Four peer
processes train, encode and apply the exact integer sum, once in the ring of 16 bits and once in that of
32; the orders that the lottery draws in the first run, rounding seeds included, are given to the second.
The third run is plain PyTorch: the float32 mean of all gradients and `torch.optim.AdamW`.

`loss_gap_A_B` is the relative difference of the final held-out losses, over the whole held-out set
(quick: the part that the curve measures); `curve_gap_k16_fp32` is the largest one along the curve.
The full run draws docs/images/ring-loss.png.
"""

import math
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from transformers import OPTForCausalLM

from benchmarks.parity import CACHE, Ran, evaluate, swarm_of_four, train_plainly
from benchmarks.report import Report, Row, command_line, progress
from swarm.cli.demo_manifest import DEMO, DEMO_ROUNDS, with_key
from swarm.data import Dataset, load_dataset
from swarm.manifest import Manifest, Work, parse_manifest
from swarm.model import build_model, layout_of, load_vector, read_vector
from swarm.order import Order
from swarm.picture import new_figure, write_png
from swarm.snapshot import Snapshot, first_snapshot

GOALS = {
    "loss_gap_k16_fp32": ("<=", 0.005),
    "loss_gap_k32_fp32": ("<=", 0.005),
    "loss_gap_k16_k32": ("<=", 0.005),
}
SLICES = 4
"""As many as the demo's: they set the 16-bit ring's levels."""
EVERY = 2
"""Rounds between two points of the curve."""
SEED = 0
"""Of the initial weights, from which the draws follow too."""
PICTURE = Path(__file__).parent.parent / "docs" / "images" / "ring-loss.png"


@dataclass(eq=False)
class Curve:
    """Held-out loss over `sequences`, int32 [count, length], as a run goes on, in nats a token."""

    name: str
    model: OPTForCausalLM
    sequences: np.ndarray
    points: dict[int, float]
    """By the rounds done."""
    final: float = math.nan
    """After the last round, over the whole held-out set."""

    def measure(self, rounds: int) -> None:
        """Take a point after every second round, at the model's weights of now."""
        if rounds % EVERY == 0:
            self.points[rounds] = evaluate(self.model, self.sequences)
            progress(f"ring: {self.name}, {rounds} rounds: {self.points[rounds]:.4f} nats a token")


def measure(quick: bool) -> Report:
    """The three runs, one after another. Raises RuntimeError where the peers of a swarm part."""
    rounds, sequences, stride = (6, 1, 12) if quick else (DEMO_ROUNDS, 4, 6)
    manifest, raw = manifest_of(rounds, sequences, ring_bits=16)
    torch.set_num_threads(1)
    dataset = load_dataset(manifest, path=None, cache=CACHE)
    torch.manual_seed(SEED)
    model = build_model(manifest.model)
    layout = layout_of(model)
    start = read_vector(model, layout)
    sample = dataset.heldout[::stride]  # spread: neighbours are alike
    whole = sample if quick else dataset.heldout
    before = evaluate(model, sample)
    k16, k32, fp32 = (Curve(name, model, sample, {0: before}) for name in ("k16", "k32", "fp32"))

    first = first_snapshot(layout, start, manifest.aggregation.initial_scale)
    ran = swarm(manifest, raw, dataset, first, k16)
    k16.final = evaluate(model, whole)
    swarm(*manifest_of(rounds, sequences, ring_bits=32), dataset, first, k32, ran.orders)
    k32.final = evaluate(model, whole)
    load_vector(model, layout, start)
    train_plainly(model, manifest, dataset, ran.batches, fp32.measure)
    fp32.final = evaluate(model, whole)

    if not quick:
        draw(PICTURE, k16, k32, fp32)
    found = {
        "loss_gap_k16_fp32": gap(k16.final, fp32.final),
        "loss_gap_k32_fp32": gap(k32.final, fp32.final),
        "loss_gap_k16_k32": gap(k16.final, k32.final),
        "curve_gap_k16_fp32": max(gap(k16.points[at], fp32.points[at]) for at in fp32.points),
        "loss_k16": k16.final,
        "loss_k32": k32.final,
        "loss_fp32": fp32.final,
        "levels_k16": float(manifest.ring.levels),
        "rounds": float(rounds),
        "sequences_a_round": float(len(ran.batches[0])),
    }
    rows = tuple(
        Row(f"held-out loss after {at} rounds", "nats", (k16.points[at], k32.points[at], fp32.points[at]))
        for at in fp32.points
    )
    return Report("ring", found, {} if quick else GOALS, rows, notes(sequences, len(sample), len(whole)))


def manifest_of(rounds: int, sequences: int, ring_bits: int) -> tuple[Manifest, bytes]:
    """The demo's manifest with this ring, so many rounds, and so many sequences a slice."""
    text = with_key(DEMO, "run", "rounds", str(rounds))
    text = with_key(text, "work", "slices", str(SLICES))
    text = with_key(text, "work", "sequences_per_slice", str(sequences))
    raw = with_key(text, "aggregation", "ring_bits", str(ring_bits)).encode()
    return parse_manifest(raw), raw


def swarm(
    manifest: Manifest,
    raw: bytes,
    dataset: Dataset,
    first: Snapshot,
    curve: Curve,
    orders: list[list[Order]] | None = None,
) -> Ran:
    """Four peers from `first` on; the curve's model ends at their last snapshot. Raises RuntimeError."""
    layout = layout_of(curve.model)

    def after(rounds: int, snapshot: Snapshot) -> None:
        load_vector(curve.model, layout, snapshot.params)
        curve.measure(rounds)

    with tempfile.TemporaryDirectory(prefix="edgeswarm-ring-") as folder:
        ran = swarm_of_four(manifest, raw, dataset, first, Path(folder), orders, after)
    if ran.distinct > 1:
        raise RuntimeError(
            f"{curve.name}: the peers parted after {len(ran.orders)} rounds; see benchmarks.parity"
        )
    return ran


def gap(a: float, b: float) -> float:
    """How far `a` is from `b`, as a share of `b`."""
    return abs(a - b) / b


def notes(sequences: int, sample: int, whole: int) -> tuple[str, ...]:
    """What the numbers are of: sequences in a slice, held-out ones for the curve and for the final losses."""
    return (
        "A row's three values are k = 16, k = 32 and fp32: least and most are how far apart the runs are. "
        f"Rows are over {sample} held-out sequences, final losses over {whole}.",
        f"The run is the demo's (learning rate, warm-up, {SLICES} slices a peer), initial weights of seed "
        f"{SEED}. Unlike there a slice has {sequences} sequences, not {Work().sequences_per_slice}, and each "
        "peer does its whole order instead of what fits a window, so that all runs see the same sequences.",
        "A gap holds everything that parts the two runs: rounding, saturation, clipping at the agreed scales "
        "and, against fp32, the order in which gradients are added. Between k = 16 and k = 32 only the "
        "fineness of rounding differs, and what follows from it; the rounding seeds are the same.",
        "The goals judge the final losses of one seed. The largest gap on the way is reported, not judged: "
        "16 bits are coarse for the first gradients, until the scales have come down from their first value, "
        "by a factor of 2 a round. The quick run ends about there.",
        "The peers are those of the parity benchmark: real computing in four processes, sums as in a round, "
        "without masks, votes or transport. Masks cancel exactly and change no sum.",
    )


def draw(path: Path, k16: Curve, k32: Curve, fp32: Curve) -> None:
    """The three curves, and below them how far the rings are from fp32, in percent; a PNG."""
    figure = new_figure(7, 5, dpi=130)
    above, below = figure.subplots(2, sharex=True, height_ratios=(5, 3))
    rounds, most = list(fp32.points), 0.5
    above.plot(rounds, list(fp32.points.values()), color="#b8c2cc", linewidth=6, label="fp32 averaging")
    for curve, label, style in (
        (k32, "ring of 32 bits", {"color": "#2c5f8a", "linestyle": "--", "marker": "s", "markersize": 5}),
        (k16, "ring of 16 bits", {"color": "#c0392b", "linestyle": "-", "marker": "o", "markersize": 3}),
    ):
        above.plot(rounds, list(curve.points.values()), label=label, **style)
        percent = [100 * (curve.points[at] / fp32.points[at] - 1) for at in rounds]
        below.plot(rounds, percent, label=label, **style)
        most = max(most, *map(abs, percent))
    below.axhspan(-0.5, 0.5, color="#b8c2cc", alpha=0.4, label="goal: 0.5 %")
    below.set_ylim(-1.2 * most, 1.2 * most)
    above.set_ylabel("held-out loss, nats a token")
    below.set_ylabel("from fp32, %")
    below.set_xlabel("rounds done")
    below.xaxis.get_major_locator().set_params(integer=True)
    above.set_title("The demo's run in the ring and in fp32, same sequences")
    above.legend()
    for axes in (above, below):
        axes.grid(alpha=0.3)
    write_png(figure, path)


if __name__ == "__main__":
    command_line("ring", measure, __doc__ or "")
