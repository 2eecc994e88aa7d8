"""What runs Corolla elsewhere: files for the servers and tools around it."""
