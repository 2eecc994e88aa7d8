"""Many tasks on one backbone, beside a copy of it for each group of tasks and a queue without fairness."""
