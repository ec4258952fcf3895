"""Measurement: cells are planned, run in processes of their own, and timed in turns."""
