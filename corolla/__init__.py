"""The `corolla` command, and what programs import."""
