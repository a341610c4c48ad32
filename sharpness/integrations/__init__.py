"""The tracker in other libraries' trainers, and their places for numbers; none of them has to be installed."""
