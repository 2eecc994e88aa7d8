"""Kills processes at random moments, and looks at what they leave behind."""
