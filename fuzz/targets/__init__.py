"""One file for each boundary: `seeds()` begins its corpus, `check(data)` raises where it breaks a promise."""
