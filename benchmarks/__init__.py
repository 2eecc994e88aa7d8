"""Side-by-side measurements, one command each: `python -m benchmarks.NAME [--quick]`.

Variants are interleaved in one process and quoted as ratios of medians, because timings on a shared
machine drift. Each prints a table for people and, last, one JSON line with fixed keys.
"""
