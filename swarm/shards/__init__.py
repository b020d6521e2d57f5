"""A model larger than any one peer: OPT cut into shards that are chained, placed and trained in step.

`slicing` cuts the model and joins it again, `stage` computes one shard, `boundary` and `messages` are what
travels between shards, `chain` is one peer's side of a chain, `wiring` says who is chained to whom, and
`placement` which shard a peer holds. docs/shards.md tells how they fit together, and what is not wired yet.
"""
