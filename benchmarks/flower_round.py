# mypy: ignore-errors
# (flwr is installed in an environment of its own, never in ours, so mypy cannot see it.)
"""Whole SecAgg+ rounds of Flower, in one process. Runs in Flower's environment (benchmarks.flower makes it).

Flower's own `SecAggPlusWorkflow` is the server and Flower's own `secaggplus_mod` is every client; what is
ours is the grid between them, a function call: no gRPC, no Ray, no serialising. What a client "trains" is
a float32 vector that was made beforehand.

Graph: complete (num_shares = members). Threshold: floor((n + c) / 2) + 1 with c = floor(n / 4), as ours.
Flower's defaults otherwise: clipping_range 8.0, quantization_range 2^22, modulus_range 2^32, max_weight
1000, strategy FedAvg; every member's weight is 1000. The members that drop out answer the stages setup and
share_keys and nothing after.

Measured is one call of the workflow: every client, the server, and FedAvg's own pass over the result, all
threads. Left out: imports, the vectors, and the check that the mean is the survivors' mean.

One JSON line a round: {"cpu_seconds", "wall_seconds", "survivors"}.
"""

import argparse
import json
import logging
import time
from collections.abc import Iterable
from copy import deepcopy

import numpy as np
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.client.mod import secaggplus_mod
from flwr.common import Code, FitRes, Status, ndarrays_to_parameters
from flwr.common.secure_aggregation.secaggplus_constants import RECORD_KEY_CONFIGS, Key, Stage
from flwr.compat.common.recorddict_compat import fitres_to_recorddict, parameters_to_arrayrecord
from flwr.server import Grid, LegacyContext, SimpleClientManager
from flwr.server.compat.grid_client_proxy import GridClientProxy
from flwr.server.strategy import FedAvg
from flwr.server.workflow import SecAggPlusWorkflow
from flwr.server.workflow.constant import MAIN_CONFIGS_RECORD, MAIN_PARAMS_RECORD
from flwr.server.workflow.constant import Key as WorkflowKey
from flwr.supercore.task_identity import TaskIdentity

RUN = 1
SERVER = 1
FIRST = 2
"""The first client's node id; the others follow."""
WEIGHT = 1000
"""Every member's weight: max_weight, where the quantisation is finest."""
STEP = 2 * 8.0 / 2**22
"""What one quantisation step is worth. A round to either neighbour is off by less than one."""


class LocalGrid(Grid):
    """Hands each message to the mod of the client it is for, with that client's context."""

    def __init__(self, vectors: list[np.ndarray], dropped: int) -> None:
        self.masked = 0
        """How many masked vectors came in."""
        self._vectors = dict(enumerate(vectors, FIRST))
        self._dropped = set(list(self._vectors)[len(vectors) - dropped :])
        self._contexts = {node: Context(RUN, node, {}, RecordDict(), {}) for node in self._vectors}

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        """See Grid. Who has dropped out does not answer, as if a timeout had passed."""
        replies = []
        for message in messages:
            node = message.metadata.dst_node_id
            stage = message.content.config_records[RECORD_KEY_CONFIGS][Key.STAGE]
            if node in self._dropped and stage not in (Stage.SETUP, Stage.SHARE_KEYS):
                continue
            # The workflow sends all clients one and the same record, and the mod takes the stage out of it.
            # Bytes, and so vectors, are not copied.
            replies.append(secaggplus_mod(deepcopy(message), self._contexts[node], self._train))
            self.masked += stage == Stage.COLLECT_MASKED_VECTORS
        return replies

    def _train(self, message: Message, context: Context) -> Message:
        parameters = ndarrays_to_parameters([self._vectors[context.node_id]])
        result = FitRes(Status(Code.OK, ""), parameters, WEIGHT, {})
        return Message(fitres_to_recorddict(result, keep_input=False), reply_to=message)

    def get_node_ids(self) -> list[int]:
        """See Grid."""
        return list(self._vectors)

    # The workflow calls none of these.
    run = property()
    set_run = create_message = push_messages = pull_messages = None


def threshold_of(members: int) -> int:
    """How many shares reconstruct a secret: as in secagg, against a quarter of the members colluding."""
    return (members + members // 4) // 2 + 1


def measure(vectors: list[np.ndarray], dropped: int) -> dict[str, float]:
    """One round. Raises RuntimeError if what it decodes is not the survivors' mean."""
    members = len(vectors)
    grid = LocalGrid(vectors, dropped)
    clients = SimpleClientManager()
    for node in grid.get_node_ids():
        clients.register(GridClientProxy(node, grid, RUN))
    state = RecordDict()
    state.config_records[MAIN_CONFIGS_RECORD] = ConfigRecord({WorkflowKey.CURRENT_ROUND: 1})
    model = ndarrays_to_parameters([np.zeros_like(vectors[0])])
    state.array_records[MAIN_PARAMS_RECORD] = parameters_to_arrayrecord(model, keep_input=True)
    strategy = FedAvg(min_fit_clients=members, min_available_clients=members)
    context = LegacyContext(Context(RUN, SERVER, {}, state, {}), strategy=strategy, client_manager=clients)
    workflow = SecAggPlusWorkflow(num_shares=members, reconstruction_threshold=threshold_of(members))

    wall, cpu = time.perf_counter(), time.process_time()
    workflow(grid, context)
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall

    if grid.masked != members - dropped:
        raise RuntimeError(f"{grid.masked} masked vectors came in, not {members - dropped}")
    check(context.state.array_records[MAIN_PARAMS_RECORD].to_numpy_ndarrays(), vectors[: grid.masked])
    return {"cpu_seconds": cpu, "wall_seconds": wall, "survivors": grid.masked}


def check(decoded: list[np.ndarray], survivors: list[np.ndarray]) -> None:
    """Raise RuntimeError unless `decoded` is the survivors' mean, each of them off by a step at most."""
    mean = np.zeros(survivors[0].shape)
    for vector in survivors:
        mean += vector
    mean /= len(survivors)
    if [array.shape for array in decoded] != [mean.shape]:
        raise RuntimeError(f"the round gave arrays of shapes {[array.shape for array in decoded]}")
    error = float(np.abs(decoded[0] - mean).max())
    # Half a step more for the mod's float32: below 16 its numbers are a quarter of a step apart.
    if not error <= 1.5 * STEP:  # not: a NaN is an error too
        raise RuntimeError(f"the decoded mean is off by {error}, more than a quantisation step, {STEP}")


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--members", type=int, required=True)
    parser.add_argument("--size", type=int, required=True, help="float32 elements of the model")
    parser.add_argument("--dropped", type=int, default=0)
    parser.add_argument("--repeat", type=int, default=1)
    given = parser.parse_args()
    if given.members < 3:
        parser.error("--members: 3 at least, as Flower wants a threshold below the number of shares")
    most = given.members - threshold_of(given.members)
    if not 0 <= given.dropped <= most:
        parser.error(f"--dropped: {given.members} members survive 0 to {most} drop-outs")
    if given.size < 1 or given.repeat < 1:
        parser.error("--size and --repeat: 1 at least")
    logging.getLogger("flwr").setLevel(logging.ERROR)
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = RUN, SERVER, 1
    # A round that does not count: it loads what Flower loads late.
    measure([np.ones(1, np.float32)] * given.members, given.dropped)
    # Clipping never bites: nothing a normal distribution gives is beyond 8.
    vectors = [
        np.random.default_rng(member).standard_normal(given.size, np.float32)
        for member in range(given.members)
    ]
    for _ in range(given.repeat):
        print(json.dumps(measure(vectors, given.dropped)), flush=True)


if __name__ == "__main__":
    main()
