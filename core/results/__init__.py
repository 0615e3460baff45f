"""A job's results as files. The store and the figures meet here; no JAX."""
