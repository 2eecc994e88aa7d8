"""Coverage-guided fuzzing of what reads untrusted bytes; docs/security.md says what it found."""
