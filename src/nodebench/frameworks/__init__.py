"""Everything that is true of an array framework, once."""
