"""The labels that come back: decided on, kept in a database, and counted from there."""
