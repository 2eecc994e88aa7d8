"""What `benchmarks.training` measures: steps in this process, peaks of memory in processes of their own."""
