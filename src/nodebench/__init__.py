"""nodebench: which gradient method for a neural ODE, and what it costs.

The names of `__all__` are the public interface, and so is what the docstrings of the abstract classes say of a plugin.
All else, in whatever module, is private and may change without notice.

A name is imported when it is first used, so that `import nodebench` takes milliseconds and imports no framework.
"""

import os
import sys

if sys.argv[:1] == ["-m"] and sys.path[0] in ("", os.getcwd()):  # noqa: PTH109  pathlib itself could be hidden
    # `python -m nodebench.cli` is being started: what lies in the user's folder must not hide the standard library.
    del sys.path[0]

TYPE_CHECKING = False  # as type checkers take it; importing it from `typing` takes longer than all else here
if TYPE_CHECKING:
    from typing import Any

    from nodebench.api import check, gate, report, run, scale
    from nodebench.backends.base import AbstractBackend
    from nodebench.backends.diffrax.solve import reason_unsupported as diffrax_unsupported
    from nodebench.backends.diffrax.solve import solve as diffrax_solve
    from nodebench.backends.diffrax.solve import step_grid as diffrax_grid
    from nodebench.backends.named import backend
    from nodebench.backends.solvers import TABLEAUS, Tableau
    from nodebench.comparing import compare
    from nodebench.conformance.backend import backend_checks
    from nodebench.conformance.check import Check, CheckFailedError
    from nodebench.conformance.task import task_checks
    from nodebench.errors import (
        CellError,
        CheckpointError,
        DataError,
        DivergedError,
        FieldError,
        NodebenchError,
        NotInstalledError,
        PluginError,
        StepLimitError,
        StoreError,
        UnknownNameError,
        UnsupportedError,
        UserError,
    )
    from nodebench.frameworks.base import (
        AbstractFramework,
        AbstractTrainer,
        Batch,
        FieldCalls,
        GradientStep,
        Optimizer,
        Weights,
    )
    from nodebench.frameworks.base import (
        check_alike as check_same_shape,
    )
    from nodebench.frameworks.torch.field import Layout as FlatLayout
    from nodebench.frameworks.torch.field import layout as flat_layout
    from nodebench.frameworks.torch.field import output_times
    from nodebench.frameworks.torch.field import parameters as field_parameters
    from nodebench.plots import Plot, View
    from nodebench.problem import Array, Dtype, Evaluations, Field, Gradients, Problem, SolverSpec, State, StepGrid
    from nodebench.recommending import recommend
    from nodebench.results.record import Record
    from nodebench.results.store import Store
    from nodebench.study import Study
    from nodebench.tasks.base import AbstractTask, GradientInputs, Metric, ModelEntry, Preset, Recipe, Splits
    from nodebench.tasks.field.task import AbstractFieldTask
    from nodebench.torch_solving import odeint

    __version__: str

__all__ = [
    "TABLEAUS",
    "AbstractBackend",
    "AbstractFieldTask",
    "AbstractFramework",
    "AbstractTask",
    "AbstractTrainer",
    "Array",
    "Batch",
    "CellError",
    "Check",
    "CheckFailedError",
    "CheckpointError",
    "DataError",
    "DivergedError",
    "Dtype",
    "Evaluations",
    "Field",
    "FieldCalls",
    "FieldError",
    "FlatLayout",
    "GradientInputs",
    "GradientStep",
    "Gradients",
    "Metric",
    "ModelEntry",
    "NodebenchError",
    "NotInstalledError",
    "Optimizer",
    "Plot",
    "PluginError",
    "Preset",
    "Problem",
    "Recipe",
    "Record",
    "SolverSpec",
    "Splits",
    "State",
    "StepGrid",
    "StepLimitError",
    "Store",
    "StoreError",
    "Study",
    "Tableau",
    "UnknownNameError",
    "UnsupportedError",
    "UserError",
    "View",
    "Weights",
    "__version__",
    "backend",
    "backend_checks",
    "check",
    "check_same_shape",
    "compare",
    "diffrax_grid",
    "diffrax_solve",
    "diffrax_unsupported",
    "field_parameters",
    "flat_layout",
    "gate",
    "odeint",
    "output_times",
    "recommend",
    "report",
    "run",
    "scale",
    "task_checks",
]

_NAMES = {
    "api": "check gate report run scale",
    "backends.base": "AbstractBackend",
    "backends.diffrax.solve": "step_grid=diffrax_grid solve=diffrax_solve reason_unsupported=diffrax_unsupported",
    "backends.named": "backend",
    "backends.solvers": "TABLEAUS Tableau",
    "comparing": "compare",
    "conformance.backend": "backend_checks",
    "conformance.check": "Check CheckFailedError",
    "conformance.task": "task_checks",
    "errors": "CellError CheckpointError DataError DivergedError FieldError NodebenchError NotInstalledError "
    "PluginError StepLimitError StoreError UnknownNameError UnsupportedError UserError",
    "frameworks.base": "AbstractFramework GradientStep AbstractTrainer Batch FieldCalls Optimizer Weights "
    "check_alike=check_same_shape",
    "frameworks.torch.field": "Layout=FlatLayout layout=flat_layout output_times parameters=field_parameters",
    "plots": "Plot View",
    "problem": "Array Dtype Evaluations Field Gradients Problem SolverSpec State StepGrid",
    "recommending": "recommend",
    "results.record": "Record",
    "results.store": "Store",
    "study": "Study",
    "tasks.base": "AbstractTask GradientInputs Metric ModelEntry Preset Recipe Splits",
    "tasks.field.task": "AbstractFieldTask",
    "torch_solving": "odeint",
}
"""The public names of each module; `there=here` where a name is another one outside of its module."""

_HOMES = {
    name.rpartition("=")[2]: (f"nodebench.{module}", name.partition("=")[0])
    for module, names in _NAMES.items()
    for name in names.split()
}


def __getattr__(name: str) -> "Any":
    """Import a public name when it is first used."""
    if name == "__version__":
        from importlib.metadata import version  # noqa: PLC0415  half of the time that importing this package takes

        value: Any = version("nodebench")
    elif name in _HOMES:
        from importlib import import_module  # noqa: PLC0415  as above

        module, attribute = _HOMES[name]
        value = getattr(import_module(module), attribute)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """The public names, and what every module has."""
    return sorted({*globals(), *__all__})
