"""What runs in the process in which a cell is measured."""
