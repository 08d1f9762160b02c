"""GPUs: streams, events, memory, copies, steps that are recorded once and replayed; kernels of operators, and what
checks their numbers without a GPU."""
