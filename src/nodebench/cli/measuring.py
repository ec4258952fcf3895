"""Commands that measure."""

import json
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, cast

import typer
from rich.table import Table

from nodebench import registry
from nodebench.cli.options import (
    DEFAULT_STORE,
    AddressOption,
    BackendOption,
    BudgetOption,
    ControllerOption,
    DeviceOption,
    DtypeOption,
    ExecutorOption,
    JobsOption,
    JsonOption,
    Many,
    PrecisionOption,
    PresetOption,
    ResumeOption,
    RoundsOption,
    SeedOption,
    StoreOption,
    TaskOption,
    ThreadsOption,
    TimeoutOption,
    TimingPresetOption,
    absolute,
    check_executor,
    command_line,
    number,
    seeds,
    split,
)
from nodebench.cli.placing import AbstractPlace, Here, OnCluster
from nodebench.cli.printing import escape_markup, new_console, print_broken, print_records, print_table
from nodebench.errors import UserError


def run(
    backend: BackendOption = None,
    task: TaskOption = None,
    model: Annotated[Many, typer.Option("--model", help="Model of the task; or `all`.")] = None,
    dataset: Annotated[str | None, typer.Option(help="Data set of the task.")] = None,
    measure: Annotated[str, typer.Option(help="gradient, counts (evaluations alone), training or both.")] = "both",
    preset: PresetOption = "quick",
    solver: Annotated[Many, typer.Option(help="Solver; see `nodebench list solvers`.")] = None,
    controller: ControllerOption = "integral",
    rtol: Annotated[Many, typer.Option(help="Relative tolerance.")] = None,
    atol: Annotated[float | None, typer.Option(help="Absolute tolerance (default: --rtol, if that is given).")] = None,
    first_step: Annotated[
        float | None,
        typer.Option(help="First step size, or that of every fixed step (default: 20 steps in all)."),
    ] = None,
    max_steps: Annotated[int | None, typer.Option(help="Step limit of one solve.")] = None,
    dtype: DtypeOption = "float32",
    device: DeviceOption = "cpu",
    batch_size: Annotated[int | None, typer.Option(help="Examples in a step (default: the recipe's).")] = None,
    seed: SeedOption = None,
    threads: ThreadsOption = 1,
    jobs: JobsOption = None,
    rounds: RoundsOption = None,
    budget_s: BudgetOption = None,
    precision: PrecisionOption = 0.05,
    timeout_s: TimeoutOption = None,
    memory_limit_gib: Annotated[
        float | None, typer.Option(help="Memory limit of a worker above its idle size, in GiB.")
    ] = None,
    max_grad_error: Annotated[
        float, typer.Option(help="Relative gradient error above which a cell is `wrong_gradient`.")
    ] = 1.0,
    control: Annotated[
        str | None,
        typer.Option(help="Backend that time ratios refer to (default: the first of each group)."),
    ] = None,
    resume: ResumeOption = False,
    rerun_failed: Annotated[
        bool,
        typer.Option("--rerun-failed", help="Re-measure cells of the plan's newest run that are not ok."),
    ] = False,
    shard: Annotated[
        str | None,
        typer.Option(
            metavar="I/N",
            help="Measure the I-th of N shares of the plan, every N-th group; `nodebench merge` joins their stores.",
        ),
    ] = None,
    executor: ExecutorOption = "local",
    ray_address: AddressOption = None,
    checkpoint_dir: Annotated[
        str | None,
        typer.Option(
            help="Folder of training checkpoints, a path or fsspec URL (default: beside the store, on a cluster none)."
        ),
    ] = None,
    group_cpus: Annotated[
        int | None,
        typer.Option(help="With ray: CPUs reserved for each timed group (default: those of the smallest node)."),
    ] = None,
    retries: Annotated[
        int | None, typer.Option(help="With ray: retries of a cell after its node is lost (default: 3).")
    ] = None,
    allow_mixed: Annotated[
        bool,
        typer.Option("--allow-mixed", help="With ray: continue when nodes have other versions or lack something."),
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be measured and stop.")] = False,
    store: StoreOption = DEFAULT_STORE,
    as_json: JsonOption = False,
) -> None:
    """Measure backends on tasks: the gradient step, the training, or both."""
    check_executor(
        executor,
        {
            "--ray-address": ray_address is not None,
            "--group-cpus": group_cpus is not None,
            "--retries": retries is not None,
            "--allow-mixed": allow_mixed,
        },
    )
    # Imported here: `--help` and `list` must answer at once.
    from nodebench.bench.machine import idle_cores  # noqa: PLC0415
    from nodebench.bench.matrix import Request, plan  # noqa: PLC0415
    from nodebench.bench.settings import Settings  # noqa: PLC0415
    from nodebench.tasks.base import Preset  # noqa: PLC0415

    request = Request(
        backends=split(backend),
        tasks=split(task),
        models=split(model),
        solvers=split(solver),
        controller=controller,
        rtols=tuple(number("--rtol", text) for text in split(rtol)),
        atol=atol,
        first_step=first_step,
        max_steps=max_steps,
        dtype=dtype,
        device=device,
        seeds=seeds(seed),
        threads=threads,
        preset=cast(Preset, preset),  # checked by `plan`, which knows the near names
        batch_size=batch_size,
        dataset=dataset,
        measure=measure,
    )
    settings = Settings(
        rounds=rounds,
        budget_s=budget_s,
        timeout_s=timeout_s,
        precision=precision,
        max_grad_error=max_grad_error,
        memory_limit_gib=memory_limit_gib,
        cores=tuple(idle_cores(threads)) if executor == "local" else None,
        jobs=jobs,
        control=None if control is None else registry.canonical(control),
    )
    if resume and rerun_failed:
        raise UserError("`--rerun-failed` continues an interrupted run too; leave `--resume` out.")
    planned = plan(request, timeout_s)
    planned.check_control(settings.control)
    print_broken(planned.broken)
    planned = _share(planned, shard, as_json=as_json)
    if dry_run:
        _print_plan(planned, as_json=as_json)
        raise typer.Exit(1 if planned.broken else 0)
    continuation = "rerun-failed" if rerun_failed else "resume" if resume else "new"
    began = time.monotonic()
    folder = None if checkpoint_dir is None else absolute(checkpoint_dir)
    place: AbstractPlace = Here(folder)
    if executor == "ray":
        place = OnCluster(folder, ray_address, group_cpus, retries, allow_mixed=allow_mixed)
    records = measure_plan(planned, settings, store, place=place, continuation=continuation, as_json=as_json)
    print_records(records, as_json=as_json)
    if continuation == "new" and executor == "local" and not as_json:
        _print_cost(records, time.monotonic() - began)
    print_broken(planned.broken)
    raise typer.Exit(exit_code(records, planned))


def scale(
    backend: BackendOption = None,
    task: TaskOption = None,
    over: Annotated[str, typer.Option(help="Axis to vary: steps, tolerance, batch or horizon.")] = "steps",
    values: Annotated[Many, typer.Option(help="Comma-separated values of the axis, at least three.")] = None,
    model: Annotated[Many, typer.Option(help="Model of the task.")] = None,
    preset: TimingPresetOption = "smoke",
    solver: Annotated[
        Many, typer.Option(help="Runge-Kutta method; over steps one without step control (default: rk4).")
    ] = None,
    controller: ControllerOption = "integral",
    dtype: DtypeOption = "float32",
    device: DeviceOption = "cpu",
    seed: SeedOption = None,
    threads: ThreadsOption = 1,
    jobs: JobsOption = None,
    rounds: RoundsOption = None,
    budget_s: BudgetOption = None,
    timeout_s: TimeoutOption = None,
    resume: ResumeOption = False,
    store: StoreOption = DEFAULT_STORE,
    as_json: JsonOption = False,
) -> None:
    """Measure how memory, evaluations and time grow, and print the exponents beside those of theory."""
    from dataclasses import asdict  # noqa: PLC0415

    from nodebench.bench.machine import idle_cores  # noqa: PLC0415
    from nodebench.bench.matrix import Request  # noqa: PLC0415
    from nodebench.bench.scaling import scaling_plan  # noqa: PLC0415
    from nodebench.bench.settings import Settings  # noqa: PLC0415
    from nodebench.reports.tables import scaling_table  # noqa: PLC0415
    from nodebench.results.scaling import Axis, scalings  # noqa: PLC0415
    from nodebench.tasks.base import Preset  # noqa: PLC0415

    request = Request(
        backends=split(backend),
        tasks=split(task),
        models=split(model),
        solvers=split(solver),
        controller=controller,
        dtype=dtype,
        device=device,
        seeds=seeds(seed),
        threads=threads,
        preset=cast(Preset, preset),  # checked by `plan`, which knows the near names
    )
    planned = scaling_plan(request, over, [number("--values", text) for text in split(values)])
    print_broken(planned.broken)
    cores = tuple(idle_cores(threads))
    settings = Settings(rounds=rounds, budget_s=budget_s, timeout_s=timeout_s, cores=cores, jobs=jobs)
    continuation = "resume" if resume else "new"
    records = measure_plan(planned, settings, store, continuation=continuation, as_json=as_json)
    laws = scalings(records, cast(Axis, over))  # checked by `scaling_plan`
    if as_json:
        print(json.dumps([asdict(law) for law in laws], indent=2, allow_nan=False))
    else:
        print_records(records, as_json=False)
        print_table(scaling_table(laws))
        if elsewhere := {cell_id for law in laws for cell_id in law.left_out}:
            new_console().print(
                f"exponents of time are of one machine each: those of {len(elsewhere)} cells are left out"
            )
    print_broken(planned.broken)
    raise typer.Exit(exit_code(records, planned))


def measure_plan(
    planned: Any, settings: Any, path: Path, *, continuation: Any, as_json: bool, place: AbstractPlace | None = None
) -> list[Any]:
    """Run a plan with its progress shown, and give the records of the run in the order of the plan.

    An interruption exits with 130.
    """
    from nodebench.bench.runner import Runner  # noqa: PLC0415
    from nodebench.progress import display  # noqa: PLC0415
    from nodebench.results.store import Store  # noqa: PLC0415

    opened, place, console = Store(path), place or Here(), new_console(err=as_json)
    try:
        with (
            place.ready(planned, settings, console) as (executor, environment),
            _ended_gently(),
            display(console, len(planned.cells)) as notify,
        ):
            runner = Runner(opened, settings, notify, executor=executor, checkpoint_dir=place.checkpoint_dir)
            run_id = runner.run(planned, command_line(), environment, continuation)
    except KeyboardInterrupt:
        console.print("interrupted; continue with the same command and --resume")
        raise typer.Exit(130) from None
    order = {cell.cell_id: at for at, cell in enumerate(planned.cells)}
    return sorted(opened.records([run_id]), key=lambda record: order[record.cell_id])


@contextmanager
def _ended_gently() -> Iterator[None]:
    """Take SIGTERM, by which a cluster ends what it has no more time for, as Ctrl-C."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


def exit_code(records: list[Any], planned: Any) -> int:
    """0 where something was measured, nothing failed and no plugin is broken.

    With `all`, what a backend does not support is no failure.
    """
    statuses = {record.status for record in records}
    return 0 if "ok" in statuses <= {"ok", "unsupported"} and not planned.broken else 1


def _share(planned: Any, shard: str | None, *, as_json: bool) -> Any:
    """The share of a plan that is to be measured; where there is nothing in it, say so and exit."""
    from nodebench.bench.plan import parse_shard  # noqa: PLC0415

    if shard is None:
        return planned
    found = planned.shard(*parse_shard(shard))
    if not found.cells:
        said = f"nothing to measure in shard {shard}: the plan has {len(planned.groups)} groups"
        new_console(err=as_json).print(said)
        print_records([], as_json=as_json)
        raise typer.Exit(1 if planned.broken else 0)
    return found


def _print_cost(records: list[Any], elapsed_s: float) -> None:
    overhead_s = sum(record.overhead_s or 0.0 for record in records)
    share = overhead_s / elapsed_s
    new_console().print(f"{elapsed_s:.0f} s, of which {overhead_s:.0f} s ({share:.0%}) were not spent in measured work")


def _print_plan(planned: Any, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps([{"cell_id": cell.cell_id, **_plain(cell)} for cell in planned.cells], indent=2))
        return
    table = Table(
        title=f"{len(planned.cells)} cells, {len(planned.groups)} groups timed in turns; measure: {planned.measure}"
    )
    for name in ("cell", "task", "model", "backend", "solver", "rtol", "batch", "seed", "preset"):
        table.add_column(name)
    for cell in planned.cells:
        numbers = (f"{cell.spec.rtol:g}", str(cell.batch_size), str(cell.seed))
        names = (cell.task, cell.model, cell.backend or "-", cell.spec.solver)
        table.add_row(cell.cell_id, *map(escape_markup, names), *numbers, cell.preset)
    print_table(table)


def _plain(cell: Any) -> dict[str, Any]:
    from dataclasses import asdict  # noqa: PLC0415

    return asdict(cell)
