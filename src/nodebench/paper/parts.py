"""What is measured for a reproduction: plans, but for what a user chooses; and when a record has it."""

from dataclasses import dataclass, replace

from nodebench.bench.matrix import plan, scaling_plan
from nodebench.bench.plan import Plan, joined
from nodebench.bench.request import Request
from nodebench.options import ReproduceOptions
from nodebench.results.record import Record


@dataclass(frozen=True)
class Part:
    """A plan of a reproduction, but for what a user chooses, the same for all parts.

    Attributes:
        name: Key among the parts of a reproduction.
        requests: What is measured; all of them measure the same.
        over: An axis with the places along it that are measured; None where it is no scaling.
    """

    name: str
    requests: tuple[Request, ...]
    over: tuple[str, tuple[float, ...]] | None = None

    @property
    def measure(self) -> str:
        """What is measured of each cell."""
        return self.requests[0].measure

    def plan(self, options: ReproduceOptions) -> Plan:
        """The cells with the preset, seeds, threads and device that a user chose.

        Raises:
            UserError: If these are wrong.
        """
        # Seeds are for what differs from one training to the next; counts, memory and time are taken at the first.
        seeds = tuple(options.seeds) if self.measure == "training" else tuple(options.seeds)[:1]
        requests = [
            replace(each, preset=options.preset, seeds=seeds, threads=options.threads, device=options.device)
            for each in self.requests
        ]
        return joined([plan(each) if self.over is None else scaling_plan(each, *self.over) for each in requests])


ANSWERS = ("ok", "wrong_gradient", "diverged", "incomparable")
"""How a cell ends of which errors are asked: that a gradient is wrong, or does not come to its end, answers that."""


def settles(record: Record, measure: str) -> bool:
    """Whether a record has what is measured, so that its cell need not be measured again."""
    if measure == "untimed":
        return record.status in ANSWERS and (record.status != "ok" or record.grad_norm_y0 is not None)
    needed = {
        "training": (record.metric_value,),
        "gradient": (record.step_s,),
        "counts": (record.nfe_forward,),
        "training-step": (record.train_step_s,),
        "both": (record.metric_value, record.step_s),
    }[measure]
    return record.status == "ok" and None not in needed
