"""Many images, no server."""
