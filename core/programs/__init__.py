"""Problems that users bring: their own functions, exported by `jax.export` and run as data.

`manifest`, `entries`, `archive`, `signatures` and `fitting` need no JAX: what a program says of itself, and whether a
job fits it. `exporting` makes a program, `checking` says whether it may be run, `running` makes a `Problem` of it, and
`check` is the process that a stranger's program is looked at in.
"""
