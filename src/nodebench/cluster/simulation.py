"""Work that only passes time: what a cluster costs and gains is seen apart from the cells."""

import time

from nodebench import registry
from nodebench.bench.work import AbstractWork, CellResult, MachineContext, TrainingWork


def pretend(work: AbstractWork, site: MachineContext) -> tuple[CellResult, ...]:
    """Take as long as work would, and measure nothing.

    A group takes the sum of its backends' option `sleep_s`, a training the option `train_sleep_s` of its task, in
    seconds, as those of `nodebench.testing`.
    """
    del site
    cells = [outcome.cell for outcome in work.outcomes]
    names = [cell.task if isinstance(work, TrainingWork) else cell.backend or "" for cell in cells]
    option = "train_sleep_s" if isinstance(work, TrainingWork) else "sleep_s"
    time.sleep(sum(float(registry.parse(name)[1].get(option, 0.0)) for name in names))
    return work.outcomes
