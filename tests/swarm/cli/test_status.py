"""What `swarm-status` shows of a run: every peer once, under its shard where there are several."""

from typing import Any

from swarm.cli.status import _lines

PEERS = [f"12D3KooW{letter * 44}" for letter in "ABCDE"]


def view_of(shards: dict[str, Any], here: list[str], unreachable: tuple[str, ...] = ()) -> dict[str, Any]:
    roster = [{"peer_id": peer, "missed": 0, **extra} for peer, extra in shards.items()]
    said = {"round": 7, "rounds": 9, "phase": "train", "roster": roster}
    answers = [
        {"peer_id": peer, "reachable": False}
        if peer in unreachable
        else {"peer_id": peer, "reachable": True, "status": said}
        for peer in here
    ]
    return {"run_id": "ab" * 32, "peers": answers}


def table(view: dict[str, Any]) -> list[tuple[str, str]]:
    """Each line below the heading: who, and what of it."""
    return [(line[:52].strip(), line[52:].split()[-1] if line[52:] else "") for line in _lines(view)[4:]]


def test_peers_of_several_shards_stand_under_theirs() -> None:
    shards = {peer: {"shard": at % 2} for at, peer in enumerate(PEERS[:4])}
    a, b, c, d, e = PEERS
    assert table(view_of(shards, [a, b, c, e], unreachable=(b,))) == [
        ("shard 0", ""),
        (a, "ok"),
        (c, "ok"),
        ("shard 1", ""),
        (b, "unreachable"),
        (d, "missing"),
        ("no shard yet", ""),
        (e, "joining"),
    ]


def test_a_run_of_one_shard_has_no_titles() -> None:
    for extra in ({}, {"shard": 0}):
        view = view_of({peer: dict(extra) for peer in PEERS[:3]}, [*PEERS[:2], PEERS[4]])
        a, b, c, _, e = PEERS
        assert table(view) == [(a, "ok"), (b, "ok"), (e, "joining"), (c, "missing")]


def test_another_machines_nonsense_for_a_shard_is_not_shown() -> None:
    shards = {PEERS[0]: {"shard": 0}, PEERS[1]: {"shard": "\x1b[2J"}, PEERS[2]: {"shard": 1}}
    text = "\n".join(_lines(view_of(shards, PEERS[:3])))
    assert "\x1b" not in text
    assert "shard" not in text
