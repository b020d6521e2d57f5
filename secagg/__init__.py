"""Aggregation of integer updates, sans-I/O: knows numpy and cryptography, and no socket, clock or torch."""
