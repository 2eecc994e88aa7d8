"""Routes: the small algebra in which a request says which models answer it. No torch."""
