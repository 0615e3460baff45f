"""The HTTP service: it accepts jobs and answers for them. Speaks to Postgres only, and loads no JAX."""
