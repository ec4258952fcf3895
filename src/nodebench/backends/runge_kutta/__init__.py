"""Our own Runge-Kutta solver in torch, and the gradient methods around it."""
