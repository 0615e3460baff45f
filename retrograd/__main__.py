"""`python -m retrograd` is the `retrograd` command."""

from retrograd.cli import main

main()
