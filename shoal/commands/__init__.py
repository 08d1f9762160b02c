"""The larger commands of ``shoal``, and the options that several share."""
