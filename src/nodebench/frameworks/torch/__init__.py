"""All that is true of torch, once."""
