"""What a command shows of a run: JSON objects, plain lines, or rows above live progress bars.

Rows are printed once and stay; only the bars below them move. All of it fits 80 columns.
"""

import json
import sys
import time
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.text import Text

from swarm.phases import PHASES

Event = dict[str, Any]

_PHASE_WIDTH = max(5, *(len(phase) for phase in PHASES))
HEADER = "round  loss  held tok/s peers " + " ".join(f"{phase:>{max(4, len(phase))}}" for phase in PHASES)
LEGEND = "peers: survivors/roster; then the seconds of each phase"


def tokens_per_second(entry: Event) -> float:
    """Tokens trained a second of the round's wall time."""
    return float(entry["tokens"]) / max(float(entry["wall_seconds"]), 1e-9)


def row(entry: Event) -> str:
    """A "round" event as a row under HEADER."""
    rate = tokens_per_second(entry)
    speed = f"{rate:5.0f}" if rate < 99_999 else f"{rate / 1000:4.0f}k"
    seconds = (f"{entry['seconds'].get(phase, 0.0):{max(4, len(phase))}.1f}" for phase in PHASES)
    present = f"{entry['survivors']}/{entry['peers']}"
    return (
        f"{entry['round']:5d} {entry['loss']:5.2f} {entry['heldout_loss']:5.2f} {speed} {present:>5} "
        + " ".join(seconds)
    )


class View:
    """Shows events; a context manager, since the bars must be taken down again.

    `rounds`: the run's number of rounds, once it is known.
    """

    def __init__(self, as_json: bool, rounds: int | None = None) -> None:
        self.json = as_json
        self.live = not as_json and sys.stdout.isatty()
        self._rounds, self._rows = rounds, 0
        self._console = Console(highlight=False, soft_wrap=True)
        self._progress = Progress(
            TextColumn("{task.description:<10}"),
            BarColumn(None),
            TextColumn("{task.completed:.0f}/{task.total:.0f}"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[note]}"),
            console=self._console,
            disable=not self.live,
        )
        self._bars: dict[str, TaskID] = {}

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def begin(self, rounds: int) -> None:
        """The number of rounds is known."""
        self._rounds = rounds

    def show(self, event: Event) -> None:
        """One event: an object with "event" and more."""
        if self.json:
            print(json.dumps(event), flush=True)
            return
        match event["event"]:
            case "round":
                self._row(event)
            case "progress":
                self._bar(event["what"], event["done"], event["total"])
            case "phase":
                self._phase(event)
            case _:
                text = sentence(event)
                if text:
                    self.say(text)

    def say(self, text: str, style: str = "") -> None:
        """A line that stays."""
        if self.json:
            return
        if self.live:
            self._console.print(Text(text, style=style))
        else:
            print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)

    def _row(self, entry: Event) -> None:
        if not self._rows % 20:
            self.say(HEADER, "bold")
        self._rows += 1
        self.say(row(entry))
        if self._rounds is not None:
            self._bar("rounds", entry["round"], self._rounds)

    def _phase(self, event: Event) -> None:
        if self.live and "rounds" in self._bars:
            self._progress.update(self._bars["rounds"], note=event["phase"])

    def _bar(self, what: str, done: int, total: int) -> None:
        if not self.live:
            return
        if what not in self._bars:
            self._bars[what] = self._progress.add_task(what, total=total, note="")
        self._progress.update(self._bars[what], completed=done, total=total)
        if what != "rounds" and done >= total:
            self._progress.remove_task(self._bars.pop(what))


def sentence(event: Event) -> str:
    """An event in words; empty for one that nobody need read."""
    match event["event"]:
        case "identity":
            return f"this peer is {event['peer_id']}; its key is in {event['key_file']}: keep that file"
        case "founded":
            return f"founded run {event['run_id']}"
        case "assembling":
            return f"waiting for the roster: {event['here']} of {event['roster']} peers are here"
        case "listening":
            return f"listening on ports {event['public']} (public) and {event['members']} (members)"
        case "meters":
            return f"energy: {event['why'][-1]}"
        case "joining":
            trial = (
                f", with a trial of {event['trial']} slices that members look at" if event["trial"] else ""
            )
            shard = f" for shard {event['shard']}" if "shard" in event else ""
            return f"asking to join after round {event['round']}{shard}{trial}"
        case "halved":
            return f"{event['rows']} sequences at once do not fit into memory; {event['now']} from now on"
        case "replaced":
            return f"shard {event['shard']} goes on without {event['was']}"
        case "void":
            why = event["reason"] or "so the others found"
            return f"round {event['round']} attempt {event['attempt']} came to nothing: {why}"
        case "paused":
            return f"round {event['round']} is paused: {event['reason']}"
        case "ban":
            return _banned(event)
        case "ended":
            return f"the run ended after round {event['round']} with the snapshot {event['snapshot']}"
        case "notice":
            return str(event["text"])
    return ""


def _banned(event: Event) -> str:
    who = event["peer_id"] if event.get("number") is None else f"peer {event['number']}"
    evidence = "" if not int(event["evidence"], 16) else f", evidence {event['evidence'][:16]}"
    return f"{who} is banned: {event['reason']}{evidence}"
