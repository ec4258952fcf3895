"""A vector field of one's own as a task."""
