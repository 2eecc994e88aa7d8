"""The study's published results, as files; see SOURCE.md beside them."""
