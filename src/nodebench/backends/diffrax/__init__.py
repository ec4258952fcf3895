"""diffrax: one solve, and its adjoints."""
