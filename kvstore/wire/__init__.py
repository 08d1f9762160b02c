"""The protocol: messages, codec, transport and the loop that drives a core."""
