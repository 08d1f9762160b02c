"""Update rules that worker and server share, and learning-rate schedules."""
