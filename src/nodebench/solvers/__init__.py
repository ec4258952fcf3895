"""Our own explicit Runge-Kutta methods."""
