"""All-reduce between the workers, without servers."""
