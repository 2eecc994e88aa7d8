"""One page that a person reads about the methods of one task: figures, words and tests."""
