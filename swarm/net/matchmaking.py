"""Meeting: the roster's peers find each other for one attempt, and each leaves its advert with the group.

hivemind's matchmaking does the finding, in a child process that was started before gRPC. It would take
any libp2p peer as leader or follower; here a meeting is named by a key (run, round, attempt, snapshot),
has its own place in the DHT, and only the roster is asked, let in or believed. What comes back was
relayed by the group's leader: it is believed only for what its signatures say.

    group = await matchmaker.meet(key, roster, quorum, advert, deadline)     # {PeerID: advert} or None
"""

import asyncio
import logging
import multiprocessing
import signal
from collections.abc import Collection
from dataclasses import dataclass
from typing import AsyncIterator  # noqa: UP035 - hivemind recognises this one only

import hivemind.p2p
import torch
from hivemind.averaging.averager import DecentralizedAverager
from hivemind.averaging.group_info import GroupInfo
from hivemind.averaging.matchmaking import Matchmaking, MatchmakingException
from hivemind.p2p import P2P, P2PContext, P2PDaemonError, P2PHandlerError
from hivemind.proto import averaging_pb2
from hivemind.utils import MPFuture, get_dht_time

from proto.canonical import PeerID
from proto.errors import SwarmError
from swarm.net.dht import SwarmDHT

logger = logging.getLogger(__name__)
MAX_ADVERT = 64 << 10
MIN_MATCHMAKING_SECONDS = 1.0
REQUEST_SECONDS = 0.5  # below MIN_MATCHMAKING_SECONDS, or peers could wait on each other in a ring
GRACE_SECONDS = 2.0
"""After the deadline a group that is forming may still finish."""
_LOSING = (MatchmakingException, AssertionError, ValueError, StopAsyncIteration, asyncio.InvalidStateError)
_LINK = (P2PHandlerError, P2PDaemonError, OSError)


class MatchmakerFailed(SwarmError):
    """The matchmaking process did not start."""


@dataclass(frozen=True)
class Meeting:
    """What the child needs for one meeting; hivemind's matchmaking reads it as its step."""

    key: bytes
    roster: frozenset[PeerID]
    minimum: int
    data_for_gather: bytes
    scheduled_time: float

    @property
    def deadline(self) -> float:
        return self.scheduled_time + GRACE_SECONDS

    def get_timeout(self) -> float:
        return max(0.0, self.deadline - float(get_dht_time()))


class RosterMatchmaking(Matchmaking):  # type: ignore[misc]
    """hivemind's matchmaking for one meeting, closed to everyone but its roster."""

    def __init__(self, meeting: Meeting, handlers: str, p2p: P2P, dht: SwarmDHT) -> None:
        super().__init__(
            p2p,
            meeting.key,  # the schema hash: followers of another meeting are turned away
            dht,
            servicer_type=Matchmaker,
            prefix=meeting.key.hex(),
            target_group_size=None,
            min_group_size=meeting.minimum,
            min_matchmaking_time=MIN_MATCHMAKING_SECONDS,
            request_timeout=REQUEST_SECONDS,
            client_mode=False,
        )
        self._prefix = handlers  # where to call; the DHT key is the meeting's own
        self.target_group_size = len(meeting.roster)
        self._roster = {hivemind.p2p.PeerID.from_base58(peer) for peer in meeting.roster}

    def welcomes(self, follower: hivemind.p2p.PeerID, request: averaging_pb2.JoinRequest) -> bool:
        """Whether the caller may become our follower."""
        return follower in self._roster and len(request.gather) <= MAX_ADVERT

    def release_waiters(self) -> None:
        """After the meeting: let the tasks end that hivemind leaves waiting on its events."""
        leaders = self.potential_leaders
        for event in (leaders.running, leaders.update_triggered, leaders.update_finished):
            event.set()
        leaders.declared_expiration.set()
        self.was_accepted_to_group.set()

    async def _request_join_group(self, leader: hivemind.p2p.PeerID) -> GroupInfo | None:
        if leader not in self._roster:
            return None
        try:
            return await super()._request_join_group(leader)
        except _LOSING:  # a leader that breaks the rules is as good as absent
            self._roster.discard(leader)
            return None

    async def follower_assemble_group(
        self, leader: hivemind.p2p.PeerID, msg: averaging_pb2.MessageFromLeader
    ) -> GroupInfo:
        group = [hivemind.p2p.PeerID(item) for item in msg.ordered_peer_ids]
        if not len(set(group)) == len(group) == len(msg.gathered) or not self._roster.issuperset(group):
            raise MatchmakingException(f"{leader} gathered a group that is not of the roster")
        if any(len(advert) > MAX_ADVERT for advert in msg.gathered):
            raise MatchmakingException(f"{leader} passed on an advert of more than {MAX_ADVERT} bytes")
        return await super().follower_assemble_group(leader, msg)


class Matchmaker(DecentralizedAverager):  # type: ignore[misc]
    """The matchmaking process of a peer. Start it after the DHT, in the main thread, before gRPC."""

    def __init__(self, dht: SwarmDHT, run_id: bytes, startup_timeout: float = 60.0) -> None:
        self._refused = multiprocessing.Value("Q", 0)
        self._task: asyncio.Task[GroupInfo | None] | None = None
        super().__init__(
            [torch.zeros(1)],  # hivemind wants something to average; it never is
            dht,
            start=False,
            prefix=run_id.hex(),
            min_matchmaking_time=MIN_MATCHMAKING_SECONDS,
            request_timeout=REQUEST_SECONDS,
            next_chunk_timeout=REQUEST_SECONDS,
            sender_timeout=REQUEST_SECONDS,
            allow_state_sharing=False,
            client_mode=False,
        )
        interrupt = signal.getsignal(signal.SIGINT)
        try:
            self.run_in_background(await_ready=True, timeout=startup_timeout)
        except (OSError, RuntimeError, TimeoutError, P2PDaemonError) as error:
            self.kill()
            raise MatchmakerFailed(f"matchmaking did not start ({error!r}): restart the peer") from None
        finally:
            signal.signal(signal.SIGINT, interrupt)  # hivemind leaves Ctrl-C ignored

    @property
    def refused(self) -> int:
        """Join requests turned away: strangers, and adverts that are too long."""
        return int(self._refused.value)

    async def meet(
        self, key: bytes, roster: Collection[PeerID], minimum: int, gather: bytes, deadline: float
    ) -> dict[PeerID, bytes] | None:
        """Find the roster's peers that come with the same 32-byte `key`, and exchange `gather` with them.

        Returns as soon as the whole roster is there, or at `deadline` (seconds since 1970, the same for
        all) with whoever is, ourselves included; None if fewer than `minimum` are. One meeting at a time:
        a new one ends the one before.
        """
        if len(gather) > MAX_ADVERT:
            raise ValueError(f"an advert of {len(gather)} bytes; the longest is {MAX_ADVERT}")
        if not self.is_alive():
            return None
        answer = MPFuture()
        meeting = Meeting(key, frozenset(roster), minimum, gather, deadline)
        try:
            self._outer_pipe.send(("_meet", [meeting, answer], {}))
            async with asyncio.timeout(meeting.get_timeout() + GRACE_SECONDS):
                group: dict[PeerID, bytes] | None = await answer
                return group
        except (TimeoutError, OSError):
            return None
        finally:
            if not answer.done() and self.is_alive():
                self._outer_pipe.send(("_leave", [], {}))

    def shutdown(self) -> None:
        """End the process."""
        if self.is_alive():
            super().shutdown()
        if self.is_alive():
            self.kill()
        self.join()

    # From here on: in the child.

    def run(self) -> None:
        """Serve until shut down, or until the parent is gone."""
        self.dht.live_with_parent()
        super().run()

    async def _meet(self, meeting: Meeting, answer: MPFuture) -> None:
        await self._leave()
        self._task = asyncio.create_task(self._find_group(meeting))
        await asyncio.wait({self._task})
        group = None if self._task.cancelled() else self._task.result()
        adverts = zip(group.peer_ids, group.gathered, strict=True) if group else ()
        answer.set_result({peer.to_base58(): advert for peer, advert in adverts} or None)

    async def _leave(self) -> None:
        if self._task is not None and not self._task.done():
            self._task.cancel()
            await asyncio.wait({self._task})

    async def _find_group(self, meeting: Meeting) -> GroupInfo | None:
        while get_dht_time() < meeting.deadline:
            # A fresh one each time: nothing of an earlier meeting is left in it.
            self._matchmaking = RosterMatchmaking(meeting, self.prefix, self._p2p, self.dht)
            try:
                return await self._matchmaking.look_for_group(meeting)
            except (*_LOSING, *_LINK) as error:
                logger.info("matchmaking failed (%r), trying again", error)
            finally:
                self._matchmaking.release_waiters()
            await asyncio.sleep(0.1)
        return None

    async def _shutdown(self, timeout: float | None) -> None:
        try:
            await self._leave()
            await super()._shutdown(timeout)
        finally:
            await self._p2p.shutdown()

    async def rpc_join_group(
        self, request: averaging_pb2.JoinRequest, context: P2PContext
    ) -> AsyncIterator[averaging_pb2.MessageFromLeader]:
        """A peer asks us to lead it."""
        meetings = self._matchmaking
        if not isinstance(meetings, RosterMatchmaking):
            yield averaging_pb2.MessageFromLeader(code=averaging_pb2.NOT_LOOKING_FOR_GROUP)
        elif not meetings.welcomes(context.remote_id, request):
            with self._refused.get_lock():
                self._refused.value += 1
            yield averaging_pb2.MessageFromLeader(code=averaging_pb2.PROTOCOL_VIOLATION)
        else:
            async for message in meetings.rpc_join_group(request, context):
                yield message

    async def rpc_aggregate_part(
        self, stream: AsyncIterator[averaging_pb2.AveragingData], context: P2PContext
    ) -> AsyncIterator[averaging_pb2.AveragingData]:
        """Nothing is averaged here."""
        yield averaging_pb2.AveragingData(code=averaging_pb2.BAD_GROUP_ID)

    async def rpc_download_state(
        self, request: averaging_pb2.DownloadRequest, context: P2PContext
    ) -> AsyncIterator[averaging_pb2.DownloadData]:
        """There is no state here: snapshots come from the public port."""
        return
        yield
