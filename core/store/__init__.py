"""What is kept, in Postgres: the only code that knows SQL.

`jobs` holds what a client may do to a job and `leases` what a worker may; `learned` keeps the learned
hyperparameters, `iterations` the record of meta-iterations, `outbox` the wake-ups still to be published and
`keys` who may ask. Every function takes a session and commits nothing: its caller decides where a transaction
ends.
"""
