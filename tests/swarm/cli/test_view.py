"""What is shown of a run fits 80 columns, carries no escape codes into a file, and is JSON when asked."""

import json

import pytest

from swarm.cli.view import HEADER, Event, View, row, sentence

ROUND = {
    "event": "round",
    "round": 12345,
    "attempts": 1,
    "loss": 10.84,
    "heldout_loss": 10.91,
    "survivors": 31,
    "peers": 32,
    "tokens": 123_456_789,
    "weight": 128,
    "wall_seconds": 30.0,
    "snapshot_hash": "ab" * 32,
    "seconds": dict.fromkeys(("train", "meet", "share", "mask", "agree", "unmask", "apply", "decide"), 99.9),
}


def test_the_table_fits_80_columns() -> None:
    assert len(HEADER) <= 80
    assert len(row(ROUND)) == len(HEADER)


def test_output_that_is_no_terminal_is_plain_lines(capsys: pytest.CaptureFixture[str]) -> None:
    with View(as_json=False) as view:
        view.begin(16)
        view.show({"event": "progress", "what": "data", "done": 1, "total": 2})
        view.show(ROUND)
        view.show({"event": "void", "round": 3, "attempt": 0, "reason": "nobody came"})
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert [line[9:] for line in out.splitlines()] == [
        HEADER,
        row(ROUND),
        "round 3 attempt 0 came to nothing: nobody came",
    ]


@pytest.mark.parametrize(
    ("event", "said"),
    [
        ({"event": "joining", "round": 3, "trial": 0}, "asking to join after round 3"),
        (
            {"event": "joining", "round": 3, "trial": 0, "shard": 1},
            "asking to join after round 3 for shard 1",
        ),
        (
            {"event": "halved", "rows": 4, "now": 2, "reason": "DefaultCPUAllocator"},
            "4 sequences at once do not fit into memory; 2 from now on",
        ),
        (
            {"event": "replaced", "shard": 1, "was": "12D3KooWslow", "now": "12D3KooWother"},
            "shard 1 goes on without 12D3KooWslow",
        ),
    ],
)
def test_what_happens_in_chains_is_told_in_a_sentence(event: Event, said: str) -> None:
    assert sentence(event) == said


def test_with_json_each_event_is_one_line_and_nothing_else_is_written(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with View(as_json=True) as view:
        view.say("for people only")
        view.show(ROUND)
    lines = capsys.readouterr().out.splitlines()
    assert [json.loads(line) for line in lines] == [ROUND]
