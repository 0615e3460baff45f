#!/bin/sh
# Exact versions for every supported Python, without any registry's address.
set -eu
compile() {
  .venv/bin/uv pip compile pyproject.toml --universal --python-version 3.11 --quiet \
    --no-emit-index-url --no-emit-find-links --no-header --no-annotate "$@"
}
compile --extra embedded --extra dev --output-file requirements.lock
compile --output-file requirements-cpu.lock
compile --extra cuda13 --output-file requirements-cuda13.lock
# installed without dependencies, and so without those of PyTorch that only a GPU needs
compile --extra embedded --extra dev --extra bench --constraints requirements.lock --output-file requirements-bench.lock
sed -E -i '/^(nvidia-|cuda-|triton)/d' requirements-bench.lock
