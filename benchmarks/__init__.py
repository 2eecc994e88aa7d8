"""Side-by-side measurements, one command each: `python -m benchmarks.NAME [--quick]`.

Variants are interleaved and quoted as ratios of medians, because timings on a shared machine drift. Each
prints a table for people and, last, one JSON line with fixed keys.
"""

import os

# Spinning threads burn CPU time while they wait; it counts only when set before torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
