"""Learning problems, one file or folder each."""
