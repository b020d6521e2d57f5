"""The rim: TLS, DHT, matchmaking and gRPC."""

import os

# Refusals and failures reach the user as named errors; gRPC's core would print its own lines beside them.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
