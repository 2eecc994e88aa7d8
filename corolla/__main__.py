"""`python -m corolla` is the `corolla` command."""

from corolla.command import main

main()
