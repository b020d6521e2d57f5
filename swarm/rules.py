"""What the manifest says of evidence, for whoever examines it: a peer, or an auditor without torch."""

import numpy as np

from secagg.ring import BLOCK, CHUNK, check_sum
from swarm.manifest import Manifest
from verify.evidence import EvidenceRefused, Rules


def evidence_rules(manifest: Manifest, chunk: int = CHUNK) -> Rules:
    """The rules of evidence of a run. `chunk`: elements in a chunk."""

    def sane(integers: np.ndarray, weight: int) -> bool:
        if len(integers) % BLOCK:
            raise EvidenceRefused(f"{len(integers)} integers are no chunk: it has whole blocks of {BLOCK}")
        # How many of a block's elements are real is not known here: full blocks are given the most.
        counts = np.full(len(integers) // BLOCK, BLOCK)
        return not len(check_sum(integers, weight, counts, manifest.ring, manifest.aggregation.sanity_rms))

    return Rules(manifest.ring.dtype, chunk, sane)
