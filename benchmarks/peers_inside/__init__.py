"""What else can answer for many adapters inside one process, each with the same results as ours."""
