"""From names to exact versions, and from versions to what runs."""
