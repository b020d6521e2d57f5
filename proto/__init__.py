"""The wire contract: what crosses between peers, and nothing else."""
