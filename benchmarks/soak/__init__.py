"""A long run under load, with all that happens to a server: are answers right, and does anything grow?"""
