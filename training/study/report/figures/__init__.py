"""The figures of the page; each file draws one kind of figure from the material, or says why there is none."""
