"""The tables of the page; each file makes one of them, or says why there is none."""
