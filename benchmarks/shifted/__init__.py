"""What monitoring says of images whose labels are known: estimates, alarms and false alarms."""
