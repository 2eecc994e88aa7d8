"""One file for each row of the dashboard: its title, and its panels from left to right."""
