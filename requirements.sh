#!/bin/sh
# Exact versions for every supported Python, without any registry's address.
set -eu
compile() {
  .venv/bin/uv pip compile "${from:-pyproject.toml}" --universal --python-version 3.11 --quiet \
    --no-emit-index-url --no-emit-find-links --no-header --no-annotate "$@"
}
compile --extra embedded --extra dev --extra mlflow --output-file requirements.lock
compile --output-file requirements-cpu.lock
compile --extra cuda13 --output-file requirements-cuda13.lock
# installed without dependencies, and so without those of PyTorch that only a GPU needs
compile --extra embedded --extra dev --extra mlflow --extra bench --constraints requirements.lock --output-file requirements-bench.lock
sed -E -i '/^(nvidia-|cuda-|triton)/d' requirements-bench.lock

# The generator of clients that a test tries. Installed without dependencies: it asks for an older typer, for a command that
# is not used here.
others=$(mktemp -d)
trap 'rm -r "$others"' EXIT
echo 'openapi-python-client>=0.29.1,<0.30' > "$others/wanted.in"
echo 'typer>=0.29' > "$others/override.txt"
from=$others/wanted.in compile --override "$others/override.txt" --constraints requirements.lock --output-file "$others/all"
grep -vxFf requirements.lock "$others/all" > requirements-generator.lock
