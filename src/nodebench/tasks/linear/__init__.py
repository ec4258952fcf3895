"""A linear ODE whose gradients are known in closed form."""
