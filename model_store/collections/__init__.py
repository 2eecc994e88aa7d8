"""What a store holds: backbones, tasks, adapters with their aliases, and named routes."""
