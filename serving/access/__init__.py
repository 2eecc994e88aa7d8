"""Who may connect, do what, and how much."""
