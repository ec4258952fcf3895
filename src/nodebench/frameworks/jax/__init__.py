"""All that is true of JAX, once."""
