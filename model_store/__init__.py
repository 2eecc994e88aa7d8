"""What a backbone, a task, an adapter and a route are at rest, and where they live."""
