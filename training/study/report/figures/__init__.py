"""The figures of the page; each file draws one kind of them, or says why there is none."""
