"""Spirals observed at irregular times: a latent ODE against a recurrent network."""
