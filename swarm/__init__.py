"""The peer: manifest, data, model, training, the round, and the rim of sockets, clocks and disks."""

__version__ = "0.1.0"
