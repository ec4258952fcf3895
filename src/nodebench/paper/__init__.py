"""Pages that set what was measured beside what the paper has."""
