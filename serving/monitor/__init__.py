"""Is it still right? Estimates, measurements and alarms from the counters, and the pages that show them."""
