"""How a demo goes: found the run, let the swarm train, look at what it made."""

import asyncio
import logging
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from swarm.cli.children import Event
from swarm.cli.common import BadArgument, CannotWrite
from swarm.cli.demo_manifest import DEMO, DEMO_ROUNDS, with_key
from swarm.cli.demo_swarm import DemoFailed, DemoSwarm
from swarm.cli.view import LEGEND, View
from swarm.manifest import SECURE_PEERS, Manifest, load_manifest
from verify.identity import Identity
from verify.record import History, colluders

__all__ = ["DEMO_ROUNDS", "Plan", "conduct", "prepare_folder"]

log = logging.getLogger(__name__)
PROMPT = "Which of the following"
MARK = ".swarm-demo"
OURS = ("peers", "bootstrap", "logs", "checkpoint")
SETTLE_SECONDS = 120.0
"""For starting the peers and for their last words, besides the rounds."""
LAST_QUARTER = 0.75
"""After this share of the rounds nobody is killed any more: who comes back must find the others."""
JOIN_AFTER = 0.1
"""Late peers start after this share of the rounds."""


@dataclass(frozen=True)
class Plan:
    """What the user asked for."""

    peers: int
    rounds: int | None
    out: Path
    manifest: Path | None
    join_late: int
    kill_every: float | None
    attackers: int = 0
    attack: str | None = None
    shards: int | None = None

    @property
    def honest(self) -> int:
        """How many of the peers do not attack: the first ones."""
        return self.peers - self.attackers

    def state(self, number: int) -> Path:
        """The state folder of a peer."""
        return self.out / "peers" / str(number)

    def key_files(self) -> list[tuple[int, Path]]:
        """Every peer's number and key, those that join late too."""
        numbers = range(self.peers + self.join_late)
        return [(number, self.state(number) / "identity.key") for number in numbers]


@dataclass(eq=False)
class Course:
    """What the peers said: the first word on each round counts, another hash for it is a failure.

    `names`: the peers' numbers; `attackers` are not believed.
    """

    view: View
    names: dict[str, int] = field(default_factory=dict)
    attackers: range = range(0)
    bans: set[str] = field(default_factory=set)
    rounds: dict[int, Event] = field(default_factory=dict)
    final: dict[int, str] = field(default_factory=dict)
    moved: asyncio.Event = field(default_factory=asyncio.Event)

    def hear(self, number: int, event: Event) -> None:
        """One event of peer `number`."""
        log.info("peer %d: %s", number, event)
        if self.view.json:
            self.view.show({"peer": number, **event})
        if number in self.attackers:
            return
        match event["event"]:
            case "round":
                first = self.rounds.setdefault(event["round"], event)
                if first["snapshot_hash"] != event["snapshot_hash"]:
                    raise DemoFailed(
                        f"round {event['round']}: peer {number} has the snapshot {event['snapshot_hash']}, "
                        f"another peer {first['snapshot_hash']}: the peers do not agree"
                    )
                if first is event and not self.view.json:
                    self.view.show(event)
                self.moved.set()
            case "ban" if event["peer_id"] not in self.bans:
                self.bans.add(event["peer_id"])
                if not self.view.json:
                    self.view.show({**event, "number": self.names.get(event["peer_id"])})
            case "ended":
                self.final[number] = event["snapshot"]
            case "phase" | "void" | "paused" if number == 0 and not self.view.json:
                self.view.show(event)

    async def reached(self, round_: int) -> None:
        """Wait until the swarm has done so many rounds."""
        while max(self.rounds, default=0) < round_:
            self.moved.clear()
            await self.moved.wait()


def check_shards(plan: Plan) -> None:
    """Raises BadArgument for shards that so many peers cannot hold; the manifest refuses the rest."""
    if plan.shards is not None and plan.shards > plan.peers:
        raise BadArgument(
            f"--shards {plan.shards}: each shard needs a peer, there are {plan.peers}; give --peers "
            f"{plan.shards} or more, or fewer shards"
        )


def check_attack(plan: Plan) -> None:
    """Raises BadArgument, UnknownAttack for attackers that the demo cannot have."""
    from swarm.attacks import attack_named

    if plan.attack is not None:
        attack_named(plan.attack)
    if (plan.attack is None) == (plan.attackers > 0):
        raise BadArgument("give both --attackers A and --attack NAME, or neither; see docs/attacks.md")
    most = colluders(plan.peers)
    if plan.attackers > most:
        raise BadArgument(
            f"--attackers {plan.attackers}: a swarm of {plan.peers} withstands {most}; "
            f"give --peers {max(4, 4 * plan.attackers)} or more, or fewer attackers"
        )


def check_attacked_shards(plan: Plan, shards: int) -> None:
    """Raises BadArgument for an attack on chains that there are not, or on cells too small to ban anybody."""
    from swarm.attacks import CHAIN_ATTACKS

    if plan.attack in CHAIN_ATTACKS and shards == 1:
        raise BadArgument(f"--attack {plan.attack}: it is of a member of a chain; give --shards 2 --peers 8")
    if plan.attackers and plan.peers < SECURE_PEERS * shards:
        raise BadArgument(
            f"--attackers with {shards} shards: a cell of fewer than {SECURE_PEERS} bans nobody; give "
            f"--peers {SECURE_PEERS * shards} or more"
        )


def prepare_folder(out: Path) -> None:
    """An empty folder, or an earlier demo's, which is cleared but for its cache. Raises CannotWrite."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        if any(out.iterdir()) and not (out / MARK).exists():
            raise CannotWrite(f"{out} holds other things: name an empty or a new folder with --out DIR")
        (out / MARK).touch()
        for name in OURS:
            shutil.rmtree(out / name, ignore_errors=True)
        for name in ("summary.json", "loss.png"):
            (out / name).unlink(missing_ok=True)
        for name in ("cache", "logs", "bootstrap", "peers"):
            (out / name).mkdir(exist_ok=True)
    except OSError as error:
        raise CannotWrite(
            f"{out} cannot be written ({error.strerror}): name another folder with --out DIR"
        ) from None


async def conduct(plan: Plan, view: View) -> None:
    """All of it. Raises DemoFailed, and what founding a run raises."""
    view.say("setting up: keys, data, first weights")
    history, manifest = await asyncio.to_thread(_found, plan)
    run = history.run
    view.begin(manifest.run.rounds)
    view.say(f"run {run.hex()}")
    names = {Identity.load(path).peer_id: number for number, path in plan.key_files()}
    course = Course(view, names, range(plan.honest, plan.peers))
    for line in shard_lines(history, names):
        view.say(line)
    data = manifest.data.file
    async with DemoSwarm(plan.out, run, course.hear, data and data.resolve()) as swarm:
        view.say(f"starting {plan.peers} peers; {LEGEND}")
        if plan.attackers:
            liars = ", ".join(str(number) for number in course.attackers)
            view.say(f"peer {liars}: {plan.attack}, in each round")
        try:
            await _let_run(plan, manifest, swarm, course)
        except asyncio.CancelledError:
            view.say("stopping the peers")
            raise
    if len(set(course.final.values())) != 1:
        raise DemoFailed(f"the peers ended on different snapshots: {course.final}")
    from swarm.cli.demo_report import report  # imports torch

    await report(plan, run, manifest, course, swarm.leftovers, view)


def shard_lines(history: History, names: dict[str, int]) -> Iterator[str]:
    """Who holds which shard, where there are several. `names`: the peers' numbers."""
    for shard, cell in enumerate(history.cells if history.shards else ()):
        numbers = ", ".join(str(number) for number in sorted(names[peer] for peer in cell))
        yield f"shard {shard}: {'peer' if len(cell) == 1 else 'peers'} {numbers}"


def _found(plan: Plan) -> tuple[History, Manifest]:
    """Make every peer's key, and found the run as peer 0 with the others in its roster from the start."""
    keys = []
    for number, path in plan.key_files():
        state = plan.state(number)
        keys.append(Identity.load_or_create(path))
        (state / "logs").mkdir(exist_ok=True)
        (state / "cache").symlink_to(plan.out / "cache")
        (plan.out / "logs" / f"peer-{number}").symlink_to(state / "logs")
    path = plan.out / "run.toml"
    path.write_text(manifest_text(plan, [key.peer_id for key in keys[1 : plan.peers]]))
    manifest, _ = load_manifest(path)
    check_attacked_shards(plan, manifest.model.shards)
    from swarm.genesis import found  # imports torch

    founded = found(path, keys[0], plan.state(0))
    founded.store.close()
    return History.begin(founded.genesis, founded.run), manifest


def manifest_text(plan: Plan, others: list[str]) -> str:
    """The run's manifest: the user's or the demo's, with what the plan says in it. Raises ManifestRefused."""
    text = DEMO
    if plan.manifest is not None:
        load_manifest(plan.manifest)  # refused with the user's own lines
        text = plan.manifest.read_text()
    if plan.rounds is not None:
        text = with_key(text, "run", "rounds", str(plan.rounds))
    if plan.shards is not None:
        text = with_key(text, "model", "shards", str(plan.shards))
    if plan.manifest is None and (plan.shards or 1) > 1 and plan.peers < SECURE_PEERS * (plan.shards or 1):
        text = with_key(text, "aggregation", "mode", '"plain"')
    text = with_key(text, "run", "min_peers", str(plan.peers))
    return with_key(text, "run", "founding_peers", "[" + ", ".join(f'"{peer}"' for peer in others) + "]")


async def _let_run(plan: Plan, manifest: Manifest, swarm: DemoSwarm, course: Course) -> None:
    """Until every peer has ended by itself."""
    rounds = manifest.run.rounds
    each = manifest.work.window_seconds + 2 * manifest.membership.round_timeout_seconds
    limit = SETTLE_SECONDS + rounds * each

    async def late(number: int) -> None:
        await course.reached(max(1, int(JOIN_AFTER * rounds)))
        course.view.say(f"peer {number} joins")
        await swarm.keep(number)

    async def strike(seconds: float) -> None:
        struck = 0
        await course.reached(1)
        while True:
            await asyncio.sleep(seconds)
            if max(course.rounds) >= LAST_QUARTER * rounds:
                return
            struck = (struck + 1) % plan.honest
            course.view.say(f"peer {struck} is killed, and starts again")
            swarm.kill(struck)

    try:
        async with (
            asyncio.timeout(limit),
            swarm.attacked(plan.attack, course.attackers),
            asyncio.TaskGroup() as tasks,
        ):
            for number in range(plan.honest):
                tasks.create_task(swarm.keep(number))
            for number in range(plan.peers, plan.peers + plan.join_late):
                tasks.create_task(late(number))
            if plan.kill_every is not None:
                tasks.create_task(strike(plan.kill_every))
    except TimeoutError:
        raise DemoFailed(
            f"{len(course.rounds)} of {rounds} rounds were done after {limit:.0f} s; see {plan.out / 'logs'}"
        ) from None
    except ExceptionGroup as failures:
        raise failures.exceptions[0] from None
