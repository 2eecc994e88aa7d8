"""Where frozen weights and zero-shot heads come from."""
