"""One script per paper, and what they share."""
