"""Where the time and the memory of a computation go, operator by operator. See `shoal.profiler`."""
