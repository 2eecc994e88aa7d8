"""Version 1 of the corolla protocol."""
