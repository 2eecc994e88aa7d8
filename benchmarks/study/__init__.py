"""The study on a user's own images: tune, train by seeds, evaluate under natural shifts, weigh the claims.

make study DATA=pacs.zip            # or: python -m benchmarks.study --help
"""
