"""The command that looks at this machine and at the harness itself."""

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from nodebench.cli.options import AddressOption, ExecutorOption, JsonOption, check_executor
from nodebench.cli.printing import escape_markup, new_console, print_environment, print_table
from nodebench.errors import UserError


def doctor(
    *,
    selftest: Annotated[
        bool, typer.Option("--selftest", help="Measure the harness: false alarms, planted faults, smallest effect.")
    ] = False,
    comparisons: Annotated[
        int | None, typer.Option(help="Comparisons of a cell with itself in the selftest (default: 40).")
    ] = None,
    executor: ExecutorOption = "local",
    ray_address: AddressOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show versions, devices and where the data would come from, and how to install what is missing.

    With `--executor ray`: those of each node of the cluster, and in what they differ.
    """
    check_executor(executor, {"--ray-address": ray_address is not None})
    if executor == "ray":
        if selftest:
            raise UserError("`--selftest` is of this machine; leave `--executor ray` out.")
        raise typer.Exit(1 if _cluster_differs(ray_address, as_json=as_json) else 0)
    if comparisons is not None and not selftest:
        raise UserError("`--comparisons` belongs to `--selftest`.")
    from nodebench import installed  # noqa: PLC0415
    from nodebench.bench.machine import fingerprint, frameworks  # noqa: PLC0415

    environment = fingerprint()
    found = frameworks()
    sources = {row["name"]: row["data"] for row in installed.tasks() if "data" in row}
    if as_json:
        tested = _selftest(comparisons, as_json=True) if selftest else None
        report = {"environment": environment, "frameworks": found, "data": sources}
        print(json.dumps(report | ({"selftest": tested.to_dict()} if tested else {}), indent=2))
        raise typer.Exit(1 if tested and tested.problems else 0)
    print_environment(environment)
    for name, state in found.items():
        new_console().print(f"{name}: {escape_markup(state)}")
    for name, source in sources.items():
        new_console().print(f"data of {name}: {escape_markup(source)}")
    if selftest:
        tested = _selftest(comparisons, as_json=False)
        _print_selftest(tested)
        raise typer.Exit(1 if tested.problems else 0)


def _cluster_differs(address: str | None, *, as_json: bool) -> bool:
    """Show the nodes of a cluster, and say whether they are not alike."""
    from nodebench.cluster.inspection import Question  # noqa: PLC0415
    from nodebench.cluster.rehearsal import rehearse  # noqa: PLC0415

    new_console(err=True).print("joining the Ray cluster and looking at its nodes" if address else "starting Ray")
    rehearse(address)
    # Only now: it imports Ray, which must know by then whether it is to show a token.
    from nodebench.cluster.session import surveyed  # noqa: PLC0415
    from nodebench.tasks.mnist.data import FOLDER_VARIABLE  # noqa: PLC0415

    question = Question(str(Path.cwd()), os.environ.get(FOLDER_VARIABLE), devices=True)
    with surveyed(address, question) as survey:
        nodes, differences = survey.nodes, survey.differences
    if as_json:
        rows = [asdict(node) | asdict(survey.inspections[node.node_id]) for node in nodes]
        print(json.dumps({"nodes": rows, "differences": differences}, indent=2))
        return bool(differences)
    console = new_console()
    for alike in _alike(survey):
        names, found = ", ".join(node.name for node in alike), survey.inspections[alike[0].node_id]
        each = " each" if len(alike) > 1 else ""
        console.print(
            f"[bold]{escape_markup(names)}[/bold]: {alike[0].cpus} CPUs and {alike[0].gpus} GPUs for Ray{each}"
        )
        if found.environment:
            print_environment(found.environment)
        for name, state in found.frameworks.items():
            console.print(f"{name}: {escape_markup(state)}", soft_wrap=True)
    for difference in differences:
        console.print(f"[red]unlike:[/red] {escape_markup(difference)}", soft_wrap=True)
    if not differences:
        console.print("no differences in Python, libraries and nodebench's commit")
    return bool(differences)


def _alike(survey: Any) -> list[list[Any]]:
    """The nodes of a cluster, those together of which there is the same to say."""
    groups: dict[str, list[Any]] = {}
    for node in survey.nodes:
        found = survey.inspections[node.node_id]
        told = json.dumps([node.cpus, node.gpus, found.environment, found.frameworks], sort_keys=True)
        groups.setdefault(told, []).append(node)
    return list(groups.values())


def _selftest(comparisons: int | None, *, as_json: bool) -> Any:
    from nodebench.bench.machine import idle_cores  # noqa: PLC0415
    from nodebench.bench.selftest import expected_s, run_selftest, workload  # noqa: PLC0415
    from nodebench.progress import display  # noqa: PLC0415

    n = 40 if comparisons is None else comparisons
    chosen = workload()
    console = new_console(err=as_json)
    console.print(f"selftest: {n} comparisons of a cell with itself; about {expected_s(chosen, n) / 60:.0f} min")
    with display(console, 0) as notify:
        return run_selftest(chosen, n, notify, tuple(idle_cores(1)))


def _print_selftest(tested: Any) -> None:
    from nodebench.reports.formatting import mebibytes  # noqa: PLC0415

    table = Table(title=f"selftest with {escape_markup(tested.workload)}", title_justify="left", show_header=False)
    rate = f"{tested.alarm_rate:.0%}, {tested.alarm_low:.1%} to {tested.alarm_high:.0%}; nominal 5 %"
    table.add_row("false alarms, A against A", f"{tested.n_alarms} of {tested.n_comparisons} ({rate})")
    for planted in tested.slowdowns:
        caught = f"caught {planted.n_caught} of {planted.n_comparisons}, ratio {planted.estimate:.3f}"
        table.add_row(f"slowdown of {planted.slowdown:.0%}", caught)
    leak = f"{mebibytes(tested.leak_bytes)} MiB a step, {mebibytes(tested.clean_bytes)} without"
    table.add_row("leak of 1 MiB a step", leak)
    table.add_row("gradient of the wrong sign", f"called {tested.wrong_gradient}")
    table.add_row("smallest visible slowdown", f"{tested.smallest_effect:.1%}")
    print_table(table)
    for problem in tested.problems:
        new_console().print(f"[red]not sound:[/red] {escape_markup(problem)}")
