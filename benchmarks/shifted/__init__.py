"""What monitoring says of images whose labels are known: estimates beside the truth, and alarms by their time."""
