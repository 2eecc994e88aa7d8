"""Short programs that use Corolla, each run by a test."""
