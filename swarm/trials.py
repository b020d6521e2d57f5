"""Trials of newcomers, as a member looks at them; sans-I/O. What follows is in verify/probation.py.

The promise: a verdict on a trial is this peer's own finding, and each slice is computed once.
"""

from collections.abc import Callable, Iterator

import numpy as np

from swarm.effects import Effect, Recompute
from swarm.manifest import Manifest
from swarm.order import DataView, trial_order
from verify.probation import TrialSlice, sketch_seed
from verify.record import History
from verify.sketch import agree, sketch

Found = tuple[bytes, TrialSlice, str, tuple[int, ...] | None]
"""A slice's name, the slice, the outcome as in a Verdict, and the sketch of what was computed."""


class Trials:
    """The trials that fall to `me`. `keys`: for effects; `at(round)`: the history at a late record."""

    def __init__(
        self, me: str, manifest: Manifest, keys: Iterator[int], at: Callable[[int], History | None]
    ) -> None:
        self._me, self._manifest, self._keys, self._at = me, manifest, keys, at
        self._begun: set[bytes] = set()
        self._computing: dict[int, tuple[bytes, TrialSlice, bytes]] = {}

    def begin(self, history: History) -> list[Effect]:
        """Compute again what late records draw this peer to look at."""
        slices = history.probation.slices
        self._begun &= slices.keys()
        effects: list[Effect] = []
        for name, one in slices.items():
            then = self._at(one.round)
            if one.checker == self._me and name not in self._begun and then is not None:
                self._begun.add(name)
                order = trial_order(then, one.peer, one.shard, self._manifest.work, one.count)
                key = next(self._keys)
                self._computing[key] = (name, one, sketch_seed(order.seed, one.index))
                effects.append(Recompute(key, order, one.index, None, DataView(0)))
        return effects

    def recomputed(self, key: int, encoded: np.ndarray | None) -> Found | None:
        """What a slice gave, integers [size], or None: it cannot be told. None if `key` is not of a trial."""
        if key not in self._computing:
            return None
        name, one, seed = self._computing.pop(key)
        if encoded is None:
            return name, one, "unclear", None
        mine = sketch(encoded, seed)
        return name, one, "clean" if agree(mine, one.sketch) else "wrong", mine
