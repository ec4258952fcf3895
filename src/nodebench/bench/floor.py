"""The floor of a gradient step: what the evaluations and vector-Jacobian products that it makes cost by themselves."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from nodebench.problem import Evaluations
from nodebench.results.record import Measurement


@dataclass(frozen=True)
class FloorTurn:
    """What was timed in one turn, in seconds of one call.

    Attributes:
        step_s: A gradient step.
        eval_s: An evaluation of the field without a graph.
        eval_with_vjp_s: An evaluation with a graph, followed by a VJP by state and parameters.
    """

    step_s: float
    eval_s: float
    eval_with_vjp_s: float

    def floor_s(self, evaluations: Evaluations) -> float:
        """All evaluations at the cost of one, and all VJPs at the cost of one, in seconds.

        A VJP is charged with what its evaluation costs more for having a graph.
        """
        n_evaluations = evaluations.nfe_forward + evaluations.nfe_backward
        return n_evaluations * self.eval_s + evaluations.n_vjps * (self.eval_with_vjp_s - self.eval_s)


def above_floor(turns: Sequence[FloorTurn], evaluations: Evaluations) -> Measurement:
    """Medians over the turns of the floor, and of the step relative to the floor of its turn."""
    floors = [turn.floor_s(evaluations) for turn in turns]
    ratios = [turn.step_s / floor for turn, floor in zip(turns, floors, strict=True)]
    return Measurement(floor_s=median(floors), floor_ratio=median(ratios))
