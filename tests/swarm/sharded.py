"""Runs of a model in shards, founded on made-up text."""

import random
from pathlib import Path

from swarm.genesis import Founded, found
from verify.identity import Identity

IN_SHARDS = """\
[run]
min_peers = 2
[model]
{model}
shards = 2
[data]
source = "text.txt"
sequence_length = {length}
[aggregation]
mode = "plain"
"""


def write_text(path: Path) -> None:
    """80 paragraphs of made-up words."""
    chance = random.Random(0)
    path.write_text("\n\n".join(" ".join(chance.choices("abcdefgh", k=40)) for _ in range(80)))


def founded(folder: Path, text: Path, model: str = 'preset = "tiny"', length: int = 32) -> Founded:
    """A run that `folder / "state"` holds, with both shards."""
    manifest = folder / "run.toml"
    manifest.write_text(IN_SHARDS.format(model=model, length=length))
    made = found(manifest, Identity.generate(), folder / "state", text)
    made.store.close()
    return made
