"""What a process did when: spans, kept in a bounded ring, for one picture of the whole run. Off unless asked for."""
