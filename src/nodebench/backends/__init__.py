"""Gradient methods by library: a file or a folder each, and none imports another. What several need has no library."""
