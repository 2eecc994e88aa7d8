"""Protocol definitions and the code generated from them, side by side (`make proto`)."""
