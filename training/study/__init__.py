"""Studies of a task: every method tuned alike."""
