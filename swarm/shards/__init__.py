"""A model larger than any one peer: OPT cut into shards that are chained, placed and trained in step.

`slicing` cuts the model and joins it again, `stage` computes one shard, `boundary` is what travels between
shards, `chain` is one peer's side of a chain, and `placement` says which shard a peer holds. What chains sign
is `verify.chains`, who is chained to whom `verify.wiring`. docs/shards.md tells how they fit together,
and what is not wired yet.
"""
