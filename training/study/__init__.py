"""Studies of one task: methods tuned fairly, compared and reported."""
