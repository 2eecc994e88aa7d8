"""One request from names and bytes to an answer; no transport."""
