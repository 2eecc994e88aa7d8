"""What names mean and which adapters are in memory, now; changing both."""
