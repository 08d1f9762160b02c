"""From the gradients on a GPU to the servers and back, beside the work of the GPU."""
