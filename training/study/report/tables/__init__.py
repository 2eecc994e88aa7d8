"""The tables of the page; each file makes one kind of table from the material, or says why there is none."""
