"""What the numbers say in words: the summary, which method when, and which of the study's claims hold here.

Nothing is called better, worse or kept without a test on the same images.
"""
