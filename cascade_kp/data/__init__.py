"""Data sets: reading their trees, and making training examples of what they hold."""
