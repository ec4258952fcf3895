"""MNIST classification with a continuous-depth network (Chen et al. 2018, section 3)."""
