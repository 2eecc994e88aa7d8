"""What is counted, how, and the labels that come back."""
