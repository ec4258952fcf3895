"""Continuous normalising flows on two-dimensional densities, against planar flows."""
