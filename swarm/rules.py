"""What a manifest promises whoever takes part or audits: a genesis's terms and the rules of evidence.

The promise: no torch here, so that peers and auditors read a run in the same way.
"""

from collections.abc import Sequence

import numpy as np

from proto.canonical import PeerID
from proto.errors import SwarmError
from secagg.ring import BLOCK, CHUNK, check_sum
from swarm.manifest import Manifest, parse_manifest
from verify.evidence import EvidenceRefused, Rules
from verify.record import Genesis, whole


class TermsDiffer(SwarmError):
    """A genesis that promises other terms than its manifest."""

    exit_code = 1


def evidence_rules(manifest: Manifest, chunk: int = CHUNK) -> Rules:
    """The rules of evidence of a run. `chunk`: elements in a chunk."""

    def sane(integers: np.ndarray, weight: int) -> bool:
        if len(integers) % BLOCK:
            raise EvidenceRefused(f"{len(integers)} integers are no chunk: it has whole blocks of {BLOCK}")
        # How many of a block's elements are real is not known here: full blocks are given the most.
        counts = np.full(len(integers) // BLOCK, BLOCK)
        return not len(check_sum(integers, weight, counts, manifest.ring, manifest.aggregation.sanity_rms))

    return Rules(manifest.ring.dtype, chunk, sane)


def terms(
    manifest: Manifest,
    raw: bytes,
    founder: PeerID,
    snapshots: Sequence[bytes],
    data: bytes | None,
    created: int,
) -> Genesis:
    """The genesis that a founder signs for a manifest. `snapshots`: of each shard; `created`: Unix ms."""
    several = tuple(snapshots) if len(snapshots) > 1 else ()
    return Genesis(
        manifest=raw,
        snapshot=whole(several) if several else snapshots[0],
        shards=several,
        data=data,
        founder=founder,
        members=tuple(sorted({founder, *manifest.run.founding_peers})),
        stewards=tuple(sorted(manifest.run.stewards)) or (founder,),
        recovery_threshold=manifest.run.recovery_threshold,
        suspend_after=manifest.membership.suspend_after,
        strikes=manifest.verification.strikes,
        probation_checks=manifest.verification.probation_checks,
        largest_cell=manifest.aggregation.largest_cell,
        invited=manifest.run.admission == "invited",
        created=created,
    )


def read_terms(genesis: Genesis) -> Manifest:
    """The manifest in a genesis, whose terms are the genesis's own. Raises ManifestRefused, TermsDiffer."""
    given = parse_manifest(genesis.manifest)
    snapshots = genesis.shards or (genesis.snapshot,)
    if len(snapshots) != given.model.shards:
        raise TermsDiffer(
            f"genesis has {len(snapshots)} shards, its manifest {given.model.shards}: do not join this run"
        )
    same = terms(given, genesis.manifest, genesis.founder, snapshots, genesis.data, genesis.created)
    for name in Genesis.model_fields:
        said, meant = getattr(genesis, name), getattr(same, name)
        if said != meant:
            raise TermsDiffer(
                f"genesis says {name} = {said}, its manifest says {meant}: do not join this run"
            )
    if (genesis.data is None) != (given.data.mode == "own"):
        raise TermsDiffer(f"genesis does not fit its manifest's data.mode = {given.data.mode!r}")
    return given
