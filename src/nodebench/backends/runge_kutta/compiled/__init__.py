"""The same steps, forward and backward, as programs that torch's Inductor compiles."""
