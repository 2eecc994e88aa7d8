"""The status page: its cards, their plots, and its template, style and script."""
