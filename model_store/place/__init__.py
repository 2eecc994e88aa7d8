"""Where a store lives: objects by key, and all names at one moment."""
