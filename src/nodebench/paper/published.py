"""What the paper has, and where it stands.

"Neural Ordinary Differential Equations", Chen, Rubanova, Bettencourt and Duvenaud, 2018,
https://arxiv.org/abs/1806.07366.
"""

from collections.abc import Mapping
from dataclasses import dataclass

PAPER = "Chen et al. 2018, arXiv 1806.07366"


@dataclass(frozen=True)
class PublishedClassifier:
    """A row of table 1 (section 3): a network for MNIST.

    Attributes:
        name: What the paper calls it.
        error: Test error, in per cent.
        n_params: Trainable parameters.
        memory: How memory grows, in L residual blocks or L~ evaluations; empty where the table has none.
        time: How time grows.
    """

    name: str
    error: float
    n_params: float
    memory: str = ""
    time: str = ""


TABLE_1: Mapping[tuple[str, str | None], PublishedClassifier] = {
    ("mlp", None): PublishedClassifier("1-layer MLP", 1.60, 0.24e6),
    ("resnet", None): PublishedClassifier("ResNet", 0.41, 0.60e6, "O(L)", "O(L)"),
    ("odenet", "direct"): PublishedClassifier("RK-Net", 0.47, 0.22e6, "O(L~)", "O(L~)"),
    ("odenet", "adjoint"): PublishedClassifier("ODE-Net", 0.42, 0.22e6, "O(1)", "O(L~)"),
}
"""By model and backend."""

MEMORY_EXPONENTS: Mapping[tuple[str, str | None], float] = {
    ("resnet", None): 1.0,
    ("odenet", "direct"): 1.0,
    ("odenet", "adjoint"): 0.0,
}
"""The same laws as numbers; that of time is 1 for all three."""

BACKWARD_SHARE = 0.5
"""Figure 3 c (section 3): evaluations of the backward pass, relative to those of the forward pass, "roughly half"."""

TABLE_2: Mapping[str, Mapping[int, float]] = {
    "rnn": {30: 0.3937, 50: 0.3202, 100: 0.1813},
    "latent-ode": {30: 0.1642, 50: 0.1502, 100: 0.1346},
}
"""Table 2 (section 5): root-mean-square error of the extrapolation, by model and observed points."""

_FLOW_BUDGETS = "10,000 iterations of Adam, and the planar flow for 500,000 of RMSprop"

BUDGETS: Mapping[str, str] = {
    "figure4": f"The paper trains the continuous flow for {_FLOW_BUDGETS}.",
    "figure5": f"The paper names no budget of this figure; for figure 4 it trains the continuous flow for "
    f"{_FLOW_BUDGETS}.",
}
"""Budgets of the trainings (section 4), by figure."""
