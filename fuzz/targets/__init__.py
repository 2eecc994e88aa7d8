"""One file for each boundary: `seeds()` begins its corpus, and `check(data)` raises where it breaks a promise."""
