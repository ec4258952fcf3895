"""Gradient methods, one file each. A backend never imports a sibling."""
