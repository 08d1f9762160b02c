"""A job in one file, ``shoal.toml``: what is to be run, and what it needs, wherever that is."""
