"""The rim: one peer process. It carries out what the round's state machine asks for.

Sockets, clocks, disk and the computing thread meet here and nowhere else. The state machine and this
class live on one event loop, so no lock is needed; whatever is saved is on disk before the next effect
is carried out.
"""

import asyncio
import logging
import os
import random
import threading
import time
from collections.abc import Callable, Coroutine, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import numpy as np

from proto.canonical import PeerID
from proto.errors import MessageRefused, SwarmError
from secagg.interface import Job, NotYet, SendPart, SendSum, Tell
from swarm.checks import PeerBanned
from swarm.compute import Abandoned, Compute, SumRefused
from swarm.data import commit, load_dataset
from swarm.directory import Directory
from swarm.download import fetch_snapshot
from swarm.effects import (
    Abandon,
    Adopt,
    Apply,
    Ask,
    Banned,
    CatchUp,
    Effect,
    Ended,
    Fetch,
    Log,
    Meet,
    Phase,
    Recompute,
    SaveDecided,
    SaveEntered,
    SaveEvidence,
    SaveVote,
    Spent,
    Stalled,
    Timer,
    Train,
    TrainChains,
    Voided,
)
from swarm.energy.account import keep_sampling
from swarm.energy.book import Book
from swarm.genesis import check_shared_data
from swarm.holding import Holding
from swarm.joining import Joining, enrolment
from swarm.library import RunLibrary
from swarm.manifest import Manifest, parse_manifest
from swarm.net.matchmaking import Matchmaker
from swarm.net.members import MembersClient, MembersServer
from swarm.net.public import PublicClient, PublicServer
from swarm.net.rpc import Refused, Unreachable
from swarm.net.streams import Streams
from swarm.openings import BudgetSpent
from swarm.order import DataView
from swarm.outbox import Outbox
from swarm.outer import self_test
from swarm.phases import PhaseClock, phase_of
from swarm.round import Participant
from swarm.settings import Settings
from swarm.snapshot import path_of
from swarm.status import status_of
from swarm.store import Store
from verify.identity import Identity
from verify.record import MICRO, Decided, Goodbye, History
from verify.statement import domain_of, open_signed, sign

log = logging.getLogger(__name__)

GOODBYE_PAUSE_SECONDS = 0.1
HOLD_SECONDS = 5.0
"""How long a transfer that came early is held."""
WATCH_SECONDS = 1.0
ASK_PAUSE_SECONDS = 2.0
"""Before a question without an answer counts as unanswered."""
CATCH_UP_SECONDS = 0.5
"""Between two askings for records, however many votes of the future a member sends."""
ASSEMBLE_SECONDS = 60.0
"""How long the first round waits for the whole roster; after that a quorum is enough."""
LARGE_BYTES = 1 << 30
"""Of large contents that a ledger keeps; records are kept for ever, and every hash is."""
LINGER_SECONDS = 3.0
"""A peer whose run has ended stays until nobody has asked it anything for so long."""
MOST_LINGER_SECONDS = 30.0

Emit = Callable[[dict[str, Any]], None]


class Peer:
    """A peer of one run, whose genesis is in the store.

    Made after DHT and matchmaker were started and before any other use of gRPC.
    """

    def __init__(
        self,
        identity: Identity,
        store: Store,
        run: bytes,
        directory: Directory,
        matchmaker: Matchmaker,
        settings: Settings,
        emit: Emit,
    ) -> None:
        self.identity, self.store, self.run_id = identity, store, run
        self.directory, self.matchmaker, self.settings, self.emit = directory, matchmaker, settings, emit
        self.me = identity.peer_id
        self.machine: Participant
        self.manifest: Manifest
        self._streams = Streams(directory.trust, self)
        self._members = MembersServer(directory.trust, self, streams=self._streams)
        self.library = RunLibrary(identity, run, store, self._status, self._take, self._moved_bytes)
        self._public = PublicServer(directory.trust, self.library)
        self._client = MembersClient(directory.trust, self._streams)
        self._outbox = Outbox(self._client, self._spawn, self._moved_bytes)
        self._tasks: set[asyncio.Task[Any]] = set()
        self._work_tasks: set[asyncio.Task[Any]] = set()
        self._jobs = ThreadPoolExecutor(1, thread_name_prefix="session")
        self._stop_work = threading.Event()
        self._catching_up = self._fetching = False
        self._moved = asyncio.Condition()
        self._final: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._phases = PhaseClock(time.monotonic)
        self._bans_told: set[PeerID] = set()
        self._round_started = time.monotonic()
        self._paused = False
        self._why: str | None = None
        self._caught_up = 0.0

    # -- life -------------------------------------------------------------------------------------------

    async def run(self) -> bytes:
        """Take part until the run ends; the final model's hash. Raises SwarmError when it cannot go on."""
        self_test()
        try:
            history, attempt = self.store.history(self.run_id)
            self.manifest = parse_manifest(history.genesis.manifest)
            await self._prepare(history, attempt)
            await self._open_ports()
            self._spawn(self._watch())
            final = await self._final
            history = self.machine.history
            self.emit({"event": "ended", "round": history.round, "snapshot": history.snapshot.hex()})
            await self._linger()
            return final
        finally:
            await self._close()

    async def say_goodbye(self) -> None:
        """Leave the roster in the next record; and wait for it, where others count on this peer till then."""
        if not hasattr(self, "machine") or self.me not in self.machine.history.roster or self.machine.ended:
            return
        goodbye = sign(self.identity, Goodbye(run=self.run_id, round=self.machine.history.round))
        others = [peer for peer in self.machine.history.members if peer != self.me]
        with suppress(TimeoutError):
            async with asyncio.timeout(3.0):
                await asyncio.gather(
                    *(self._client.tell(peer, goodbye) for peer in others), return_exceptions=True
                )
        end = time.monotonic() + self.manifest.membership.round_timeout_seconds
        while self.machine.phase.shared:
            if time.monotonic() > end:
                return
            await asyncio.sleep(GOODBYE_PAUSE_SECONDS)

    async def _leave(self, budget: int) -> None:
        await self.say_goodbye()
        self._fail(BudgetSpent(budget))

    async def _prepare(self, history: History, attempt: int) -> None:
        manifest, settings = self.manifest, self.settings
        founder = history.genesis.founder == self.me
        path = settings.data or (manifest.data.file if founder else None)
        self.emit({"event": "phase", "phase": "data"})
        dataset = await asyncio.to_thread(
            lambda: load_dataset(manifest, path=path, cache=settings.cache, progress=self._progress("data"))
        )
        check_shared_data(history.genesis, dataset)
        view, open_text = DataView(len(dataset.sequences)), None
        if manifest.data.mode == "own":
            salt = self.identity.sign("data-salt", self.run_id)[:32]
            own = await asyncio.to_thread(commit, dataset.sequences, salt)
            view, open_text = DataView(own.count, own.root), own.open_all
        self._account = settings.account(manifest)
        book = Book(self._account, self.store.energy(), self.store.save_energy)
        self._spawn(keep_sampling(self._account))
        self._holding = Holding(
            self.me,
            self.run_id,
            manifest,
            dataset,
            self.store,
            settings,
            self._client,
            lambda message: sign(self.identity, message),
            self.emit,
            self._spawn,
            self._moved_bytes,
            self._account.enter,
        )
        shard = self._holding.first(history)
        await self._holding.take(shard)
        have = history.snapshot_of(shard)
        if path_of(self.store.snapshots, have).exists():
            await self.compute.load(have)
        else:
            have = b""
        self.machine = Participant(
            self.identity,
            manifest,
            history,
            view,
            have,
            lambda: os.urandom(32),
            attempt,
            self.store.votes((history.round + 1, attempt)),
            self.store.entered(),
            sane=lambda chunk, update, weight: self.compute.sane(chunk, update, weight),
            head=self.store.ledger.head,
            energy=book.claim if settings.meters else lambda tokens: None,
            open_text=open_text or (lambda indices: []),
            recall=self.store.evidence,
            shown=self.store.shown,
            wanted=shard,
        )
        self._joining = Joining(
            self.machine, lambda: self.compute, self.directory, settings.invitation, self.emit
        )
        self.store.catch_up_ledger()

    @property
    def compute(self) -> Compute:
        """The computing thread for what this peer holds now."""
        return self._holding.compute

    async def _hold(self) -> None:
        """Hold the shard that the last record says."""
        if self._holding.shard != self.machine.shard:
            self.emit({"event": "moved", "from": self._holding.shard, "to": self.machine.shard})
            await self._holding.take(self.machine.shard)

    async def _consider_moving(self) -> None:
        shard = await asyncio.to_thread(self._holding.better, self.machine.history)
        if shard is not None and shard != self.machine.shard:
            self._take(self.machine.move(shard))

    async def _open_ports(self) -> None:
        public = await self._public.start(self.directory.public_listen)
        members = await self._members.start(self.directory.members_listen)
        await self.directory.announce(public, members)
        self.emit({"event": "listening", "public": public, "members": members, "peer_id": self.me})

    async def _linger(self) -> None:
        """Others may still need the last record and snapshot."""
        started = self.library.last_asked = time.monotonic()
        while time.monotonic() < started + MOST_LINGER_SECONDS:
            if time.monotonic() - self.library.last_asked > LINGER_SECONDS:
                return
            await asyncio.sleep(0.2)

    async def _close(self) -> None:
        self._stop_work.set()
        for task in [*self._tasks, *self._work_tasks]:
            task.cancel()
        await asyncio.gather(*self._tasks, *self._work_tasks, return_exceptions=True)
        await self._client.close()
        await self._public.stop()
        await self._members.stop()
        await asyncio.to_thread(self._jobs.shutdown, cancel_futures=True)
        if hasattr(self, "_holding"):
            await asyncio.to_thread(self.compute.close)

    def _spawn(self, work: Coroutine[Any, Any, None], of_attempt: bool = False) -> None:
        """Run in the background; an error that nobody named ends the peer, loudly."""
        task = asyncio.get_running_loop().create_task(work)
        kept = self._work_tasks if of_attempt else self._tasks
        kept.add(task)

        def done(task: asyncio.Task[Any]) -> None:
            kept.discard(task)
            error = None if task.cancelled() else task.exception()
            if error is not None:
                self._fail(error)

        task.add_done_callback(done)

    def _fail(self, error: BaseException) -> None:
        if not self._final.done():
            self._final.set_exception(error)

    # -- effects ----------------------------------------------------------------------------------------

    def _do(self, effects: Iterable[Effect]) -> None:
        """Carry out effects in order. What cannot be saved ends the peer before anything is said of it."""
        try:
            for effect in effects:
                self._carry_out(effect)
        except SwarmError as error:
            self._fail(error)
        self._mark_phase()
        self._spawn(self._wake())

    def _carry_out(self, effect: Effect) -> None:
        match effect:
            case Train():
                self._begin_attempt()
                self._spawn(self._train(effect), of_attempt=True)
            case TrainChains():
                self._begin_attempt()
                self._spawn(self._train_chains(effect), of_attempt=True)
            case Stalled(shard):
                self._stall(f"nobody in the roster holds shard {shard}")
            case Meet():
                self._spawn(self._meet(effect), of_attempt=True)
            case Tell(to, raw):
                self._outbox.tell(to, raw)
            case SendPart():
                self._spawn(self._send(effect), of_attempt=True)
            case SendSum():
                self._spawn(self._send(effect))
            case Job():
                self._spawn(self._run_job(effect), of_attempt=True)
            case Apply():
                self._spawn(self._apply(effect))
            case Timer(key, seconds):
                asyncio.get_running_loop().call_later(seconds, self._elapsed, key)
            case SaveVote(slot, raw):
                self.store.save_vote(slot, raw)
            case SaveEntered(slot):
                self.store.save_entered(slot)
            case SaveDecided(slot, raw):
                self.store.save_decided(slot, raw)
            case Adopt():
                self._adopt(effect)
            case Abandon():
                self._abandon()
            case CatchUp():
                self._spawn(self._catch_up())
            case Fetch():
                self._spawn(self._fetch())
            case Ask():
                self._spawn(self._ask(effect))
            case Recompute():
                self._spawn(self._recompute(effect))
            case SaveEvidence(name, raw):
                self.store.save_evidence(name, raw)
            case Log(entries):
                self.store.ledger.append(entries)
            case Voided(slot, reason):
                self._why = reason or self._why
                log.info("attempt %s is void: %s", slot, reason)
                self.emit({"event": "void", "round": slot[0], "attempt": slot[1], "reason": reason})
            case Banned(ban):
                raise PeerBanned(ban)
            case Spent(budget):
                self._spawn(self._leave(budget))
            case Ended(snapshot):
                self._spawn(self._end(snapshot))

    async def _wake(self) -> None:
        async with self._moved:
            self._moved.notify_all()

    def _mark_phase(self) -> None:
        machine = self.machine
        session = machine.session
        inside = machine.phase is Phase.SESSION and session is not None
        name = phase_of(session.step) if inside and session is not None else machine.phase.value
        if self._phases.enter(name):
            self.emit({"event": "phase", "phase": name, "round": machine.slot[0], "attempt": machine.slot[1]})

    def _begin_attempt(self) -> None:
        self._stop_work = threading.Event()
        if self.machine.attempt == 0:
            self._round_started = time.monotonic()
            self._phases.reset()

    def _abandon(self) -> None:
        self._stop_work.set()
        for task in self._work_tasks:
            task.cancel()

    async def _train(self, effect: Train) -> None:
        try:
            work = await self.compute.train(effect.order, effect.seconds, self._stop_work)
        except Abandoned:
            return
        self._do(self.machine.trained(effect.slot, work))

    async def _train_chains(self, effect: TrainChains) -> None:
        chains = self._holding.chains
        assert chains is not None
        self._do(self.machine.trained(effect.slot, await chains.train(effect)))

    async def _meet(self, effect: Meet) -> None:
        deadline = time.time() + effect.seconds
        group = await self.matchmaker.meet(effect.key, effect.roster, effect.minimum, effect.advert, deadline)
        self._do(self.machine.met(effect.slot, group))

    async def _send(self, effect: SendPart | SendSum) -> None:
        try:
            await self._client.transfer(effect.to, effect.header, effect.data.data)
            self._moved_bytes(effect.data.nbytes)
        except (Unreachable, Refused) as error:
            what = "part" if isinstance(effect, SendPart) else "sum of part"
            log.info("%s %d did not reach %s: %s", what, effect.part, effect.to, error)
            if isinstance(effect, SendPart):
                self._do(self.machine.part_failed(effect))

    async def _run_job(self, job: Job) -> None:
        value = await asyncio.get_running_loop().run_in_executor(self._jobs, job.run)
        try:
            self._do(self.machine.job_done(job, value))
        except MessageRefused as refusal:
            log.warning("%s", refusal)

    async def _ask(self, effect: Ask) -> None:
        answer = None
        try:
            answer = await self._client.ask(effect.to, effect.raw)
            self._moved_bytes(sum(map(len, answer)))
        except (Unreachable, Refused) as error:
            log.info("asking %s: %s", effect.to, error)
            await asyncio.sleep(ASK_PAUSE_SECONDS)  # it may be a step behind
        try:
            self._do(self.machine.answered(effect.key, answer))
        except MessageRefused as refusal:
            log.warning("%s", refusal)

    async def _recompute(self, effect: Recompute) -> None:
        found, held = await self.compute.try_again(effect)
        self._do(self.machine.recomputed(effect.key, found.encoded, held, found.apart))

    async def _apply(self, effect: Apply) -> None:
        try:
            snapshot = await self.compute.apply(self.machine.target, effect.total, effect.weight)
        except SumRefused as refusal:
            log.warning("%s", refusal)
            self._do(self.machine.refused_sum(effect.slot, str(refusal), refusal.chunks))
        else:
            self._do(self.machine.applied(effect.slot, snapshot))

    def _elapsed(self, key: tuple[str, tuple[int, int], tuple[str | int, ...]]) -> None:
        if not self._final.done():
            self._do(self.machine.elapsed(key))

    def _adopt(self, effect: Adopt) -> None:
        record = effect.record
        self._paused, self._why = False, None
        target = self.machine.target
        if self.machine.snapshot == target:
            self.compute.adopt(target)
        if not self.settings.archive:
            self.store.prune_snapshots(self.manifest.membership.snapshots_kept, target)
        self.store.ledger.forget_large(LARGE_BYTES, spared="decided")
        self._follow_roster()
        self._spawn(self._consider_moving())
        for peer, ban in self.machine.history.conduct.bans.items():
            if peer not in self._bans_told:
                self._bans_told.add(peer)
                self.emit({"event": "ban", **ban.json(peer)})
        entry = {
            "round": record.round,
            "attempts": effect.attempts,
            "loss": record.loss / MICRO,
            "heldout_loss": record.heldout / MICRO,
            "survivors": len(record.survivors),
            "weight": sum(record.weights),
            "tokens": record.tokens,
            "snapshot_hash": record.snapshot.hex(),
            "seconds": self._phases.seconds(),
            "wall_seconds": time.monotonic() - self._round_started,
            "peers": len(self.machine.history.roster),
        }
        self.store.log_round(entry)
        self.emit({"event": "round", **entry})

    # -- catching up ------------------------------------------------------------------------------------

    async def _catch_up(self) -> None:
        """Records from whoever has them; what a peer serves is believed for its signatures."""
        if self._catching_up:
            return
        self._catching_up = True
        try:
            await asyncio.sleep(self._caught_up + CATCH_UP_SECONDS - time.monotonic())
            self._caught_up = time.monotonic()
            peers = [record for peer, record in self.directory.known().items() if peer != self.me]
            random.shuffle(peers)
            for record in peers[:4]:
                try:
                    async with PublicClient(record) as client:
                        while served := await client.records(self.machine.history.round + 1):
                            before = self.machine.slot
                            self._do(self.machine.learn(served))
                            if self.machine.slot == before:
                                break
                except (Unreachable, Refused, MessageRefused) as error:
                    log.info("catching up: %s", error)
        finally:
            self._catching_up = False

    async def _fetch(self) -> None:
        """Get the snapshot of the last record, whatever it is by the time a download is through."""
        if self._fetching:
            return
        self._fetching = True
        try:
            while self.machine.snapshot != self.machine.target and not self.machine.ended:
                name = self.machine.target
                await self._hold()
                if not await self._download(name):
                    continue
                await self.compute.load(name)
                self._do(self.machine.fetched(name))
                if self.me not in self.machine.history.roster:  # at once: it is soon old
                    await self._joining.ask()
        finally:
            self._fetching = False

    async def _download(self, name: bytes) -> bool:
        """Whether the snapshot is here now; where nobody has it, some time has passed."""
        if path_of(self.store.snapshots, name).exists():
            return True
        others = [record for peer, record in self.directory.known().items() if peer != self.me]
        self.store.sweep_downloads(under_way=name)
        progress = self._progress("snapshot")
        if await fetch_snapshot(self.store.snapshots, name, self.compute.layout, others, progress):
            self._moved_bytes(path_of(self.store.snapshots, name).stat().st_size)
            return True
        await asyncio.sleep(WATCH_SECONDS)
        return False

    async def _end(self, snapshot: bytes) -> None:
        """The run is over. Who missed its last round gets the final snapshot as long as others are there."""
        give_up = time.monotonic() + MOST_LINGER_SECONDS
        while time.monotonic() < give_up:
            if self._fetching:  # an earlier one is on its way, and there is room for one at a time
                await asyncio.sleep(WATCH_SECONDS)
            elif await self._download(snapshot):
                break
        if not self._final.done():
            self._final.set_result(snapshot)

    async def _watch(self) -> None:
        """Keep the directory fresh; outside the roster, follow the run and ask to be let in."""
        await self._assemble()
        await self._catch_up()
        if self.machine.phase is Phase.WATCH:
            self._do(self.machine.begin())
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            await self.directory.refresh()
            self._follow_roster()
            if self.machine.phase is Phase.WATCH and not self.machine.ended:
                await self._watch_once()
            self._notice_pause()

    def _follow_roster(self) -> None:
        history = self.machine.history
        self.directory.follow(history.members, history.conduct.bans)

    async def _assemble(self) -> None:
        """Before the first round, wait for the roster to announce itself: who begins alone meets nobody."""
        end = time.monotonic() + ASSEMBLE_SECONDS
        while True:
            await self.directory.refresh()
            history, known = self.machine.history, self.directory.known()
            self._follow_roster()
            here = [peer for peer in history.members if peer in known]
            late = time.monotonic() > end and len(here) >= history.quorum
            if history.round > 0 or self.me not in here or len(here) == len(history.members) or late:
                return
            self.emit({"event": "assembling", "here": len(here), "roster": len(history.members)})
            await asyncio.sleep(WATCH_SECONDS)
            await self._catch_up()

    async def _watch_once(self) -> None:
        await self._catch_up()
        machine = self.machine
        if machine.phase is not Phase.WATCH or machine.ended:
            return
        if machine.snapshot != machine.target:
            self._spawn(self._fetch())
        elif self.me not in machine.history.roster:
            await self._joining.ask()
        elif len(machine.history.roster) < self.manifest.run.min_peers:
            enrolled = enrolment(machine)
            self._do([] if enrolled is None else machine.learn([enrolled]))

    def _recover(self, raw: bytes) -> None:
        """The stewards' recovery record, which counts only where a run stands still."""
        decided = open_signed(raw, Decided).message if self._paused else None
        if decided is None or not decided.recovery:
            raise MessageRefused("recovery: only that of the stewards, and only while the run is paused")
        self._do(self.machine.learn([decided.encode()]))

    def _notice_pause(self) -> None:
        stuck = time.monotonic() - self._round_started
        limit = self.manifest.work.window_seconds + 3 * self.manifest.membership.round_timeout_seconds
        if self.machine.phase in (Phase.WATCH, Phase.ENDED) or self._paused or stuck < limit:
            return
        roster, quorum = len(self.machine.history.roster), self.machine.history.quorum
        why = f"{self.machine.attempt} attempts came to nothing" + (f" ({self._why})" if self._why else "")
        self._stall(f"no record for {stuck:.0f} s, {why}: {quorum} of {roster} roster peers must take part")

    def _stall(self, why: str) -> None:
        self._paused = True
        how = "the run goes on when they return, or by a recovery of the stewards (swarm-steward)"
        self.emit({"event": "paused", "round": self.machine.slot[0], "reason": f"{why}; {how}"})

    def _progress(self, what: str) -> Callable[[int, int], None]:
        last = [0.0]

        def report(done: int, total: int) -> None:
            now = time.monotonic()
            if now - last[0] > 0.2 or done == total:
                last[0] = now
                self.emit({"event": "progress", "what": what, "done": done, "total": total})

        return report

    # -- Inbox: what members send -----------------------------------------------------------------------

    async def on_tell(self, sender: PeerID, raw: bytes) -> None:
        """See Inbox."""
        self._moved_bytes(len(raw))
        self._do(self.machine.receive(sender, raw))

    async def on_ask(self, sender: PeerID, raw: bytes) -> list[bytes]:
        """See Inbox."""
        answer = self.machine.answer(sender, raw)
        self._moved_bytes(sum(map(len, answer)))
        return answer

    async def on_frame(self, sender: PeerID, header: bytes, tensor: bytes) -> None:
        """See Inbox."""
        chains = self._holding.chains
        if chains is None:
            raise MessageRefused("chain: this run has one shard")
        await chains.on_frame(sender, header, tensor)

    async def expect(self, sender: PeerID, header: bytes) -> memoryview:
        """See Inbox. A transfer that comes before this peer has met is held for a while."""
        end = time.monotonic() + HOLD_SECONDS
        while True:
            try:
                return self.machine.room(sender, header).data.cast("B")
            except NotYet:
                left = end - time.monotonic()
                if left <= 0:
                    raise
                async with self._moved:
                    try:
                        await asyncio.wait_for(self._moved.wait(), left)
                    except TimeoutError:
                        continue

    async def on_transfer(self, sender: PeerID, header: bytes, data: memoryview) -> None:
        """See Inbox."""
        self._moved_bytes(data.nbytes)
        self._do(self.machine.arrived(sender, header, np.frombuffer(data, self.manifest.ring.dtype)))

    def _moved_bytes(self, count: int) -> None:
        """So many bytes came or went."""
        self._account.count(network_bytes=count)

    # -- what the library asks for ------------------------------------------------------------------------

    def _status(self) -> dict[str, Any]:
        known, phases = self.directory.known(), self._phases
        return {
            **status_of(self.machine, self.manifest, known),
            "phase": phases.current,
            "paused": self._paused,
            "round_seconds": phases.last_round,
        }

    def _take(self, raw: bytes) -> None:
        """A statement that came over the public port: to join or leave, or the stewards' recovery."""
        if domain_of(raw) == Decided.DOMAIN:
            self._recover(raw)
        elif not self.machine.carry(raw):
            return  # whoever hands it in again and again makes nobody tell it again
        for member in self.machine.history.members:
            if member != self.me:
                self._outbox.tell(member, raw)
