"""Runs that need no download: made-up text, and a founded run whose peers have a folder each."""

import random
from dataclasses import dataclass
from pathlib import Path

from proto.canonical import PeerID
from swarm.genesis import found
from verify.identity import Identity


@dataclass(frozen=True)
class SmallRun:
    """A run founded by peer 0, with every peer in its roster from the start; `data`: the text they share."""

    run: bytes
    data: Path
    peers: list[PeerID]


def write_text(path: Path, seed: int = 0) -> None:
    """300 paragraphs of made-up words."""
    chance = random.Random(seed)
    words = ["".join(chance.choices("abcdefghij", k=chance.randint(2, 7))) for _ in range(200)]
    paragraphs = (" ".join(chance.choices(words, k=40)) for _ in range(300))
    path.write_text("\n\n".join(paragraphs))


def found_run(folder: Path, peers: int, manifest: str) -> SmallRun:
    """Lay out `folder` for a DemoSwarm. `manifest` has the places {others} and {data}."""
    data, path = folder / "text.txt", folder / "run.toml"
    write_text(data)
    for name in ("logs", "bootstrap"):
        (folder / name).mkdir()
    states = [folder / "peers" / str(number) for number in range(peers)]
    keys = [Identity.load_or_create(state / "identity.key") for state in states]
    others = ", ".join(f'"{key.peer_id}"' for key in keys[1:])
    path.write_text(manifest.format(others=others, data=data))
    founded = found(path, keys[0], states[0])
    founded.store.close()
    return SmallRun(founded.run, data, [key.peer_id for key in keys])
