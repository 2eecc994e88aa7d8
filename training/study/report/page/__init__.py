"""How the page looks: its template, its style and the script that sorts tables."""
