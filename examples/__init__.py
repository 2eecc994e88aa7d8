"""Short programs, each run by a test: `python examples/NAME.py --help` says what one needs."""
