"""What commands share in parsing."""

import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from nodebench import registry
from nodebench.errors import UnknownNameError, UserError

DEFAULT_STORE = Path(".nodebench/results.db")

Many = list[str] | None
StoreOption = Annotated[
    Path, typer.Option("--store", envvar="NODEBENCH_STORE", help="Results store, an SQLite file.", show_default=True)
]
MachineOption = Annotated[
    str | None,
    typer.Option(
        "--machine", help="Whose times are shown: a node's name, or the key of a fingerprint (default: most times)."
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print records as one JSON array; all else goes to stderr.")]
BackendOption = Annotated[
    Many, typer.Option("--backend", "-b", help=r"Gradient method, name\[option=value]; or `all`.")
]
TaskOption = Annotated[Many, typer.Option("--task", "-t", help=r"Task, name\[option=value]; or `all`.")]
ControllerOption = Annotated[str, typer.Option(help="Step-size controller: integral or pi.")]
DtypeOption = Annotated[str, typer.Option(help="float32 or float64.")]
DeviceOption = Annotated[str, typer.Option(help="cpu or cuda.")]
SeedOption = Annotated[Many, typer.Option(help="Seed of weights, data order and noise (default: 0).")]
ThreadsOption = Annotated[int, typer.Option(help="Threads of a worker.")]
JobsOption = Annotated[
    int | None, typer.Option(help="Cells whose untimed passes run in parallel (default: as many as the cores permit).")
]
RoundsOption = Annotated[int | None, typer.Option(help="Timing rounds (default: until --precision or --budget-s).")]
BudgetOption = Annotated[float | None, typer.Option(help="Timing budget of a cell, in seconds.")]
PrecisionOption = Annotated[float, typer.Option(help="Relative half width of a ratio's interval that ends the timing.")]
TimeoutOption = Annotated[float | None, typer.Option(help="Time limit of one pass of a cell, in seconds.")]
ResumeOption = Annotated[bool, typer.Option(help="Continue the newest interrupted run of the same plan.")]
TimingPresetOption = Annotated[str, typer.Option(help="Budget of the timing: smoke, quick, standard or paper.")]
PresetOption = Annotated[str, typer.Option(help="Budget: smoke, quick, standard or paper.")]
ExecutorOption = Annotated[str, typer.Option(help="Where to measure: local, or ray for a cluster of machines.")]
AddressOption = Annotated[
    str | None,
    typer.Option("--ray-address", help="HOST:PORT of the cluster's head, or `auto`; a Ray of this machine by default."),
]

EXECUTORS = ("local", "ray")


def check_executor(executor: str, for_ray: Mapping[str, bool]) -> None:
    """See that there is such an executor, and that options of a cluster are not given without one.

    Args:
        executor: What `--executor` says.
        for_ray: Options that belong to `ray`, and whether they were given.

    Raises:
        UserError: If it is otherwise, or Ray is not installed.
    """
    from nodebench import cluster  # noqa: PLC0415

    if executor not in EXECUTORS:
        raise UnknownNameError("executor", executor, EXECUTORS)
    if executor == "ray":
        cluster.require_ray()
        return
    given = [option for option, is_given in for_ray.items() if is_given]
    if given:
        raise UserError(f"`{given[0]}` belongs to `--executor ray`.")


def command_line() -> str:
    """The command as it was given."""
    return shlex.join(["nodebench", *sys.argv[1:]])


def absolute(folder: str) -> str:
    """A folder as it is called from every working directory; URLs are."""
    return folder if "://" in folder else str(Path(folder).absolute())


def split(values: Many) -> tuple[str, ...]:
    """Values of an option that repeats or takes commas."""
    return tuple(item for value in values or [] for item in registry.split_list(value))


def number(option: str, text: str, *, whole: bool = False) -> float:
    """The number that an option was given.

    Raises:
        UserError: If it is none.
    """
    try:
        return int(text) if whole else float(text)
    except ValueError:
        raise UserError(f"`{option}` must be a {'whole ' if whole else ''}number; got {text!r}.") from None


def seeds(values: Many) -> tuple[int, ...]:
    """The seeds that were given, each once; 0 where none was.

    Raises:
        UserError: If one is no whole number.
    """
    return tuple(dict.fromkeys(int(number("--seed", text, whole=True)) for text in split(values))) or (0,)


def check_store(path: Path) -> None:
    """Check that there is a store.

    Raises:
        UserError: If not.
    """
    if not path.exists():
        raise UserError(f"there is no store at `{path}`; `nodebench run` makes one, or name another with --store.")


def open_store(path: Path) -> Any:
    """A store that exists, only to be read, wherever it lies.

    Raises:
        UserError: If there is none, or it cannot be read.
    """
    from nodebench.results.store import Store  # noqa: PLC0415

    check_store(path)
    return Store(path, read_only=True)
