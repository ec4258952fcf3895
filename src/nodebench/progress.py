"""Progress of work that goes on, as events become lines: live on a terminal, plain when piped."""

import signal
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

from rich.console import Console, RenderableType
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Column, Table
from rich.text import Text
from typing_extensions import override

from nodebench.bench.messages import ClusterState, Event, NodeState
from nodebench.measuring import Notify, Watcher
from nodebench.printing import print_broken
from nodebench.reports.comparison import NOT_RUN
from nodebench.reports.names import ShortNames
from nodebench.reports.writers.terminal import new_console

WHOLE = ShortNames({})
"""Leaves every name as it is."""

PLAIN_S = 10.0
"""How often a plain line tells of progress within a phase, or of the cluster."""

RUN_S = 365 * 86400.0
"""Longer than any run."""

BAR_WIDTH = 20
"""Characters of a bar."""

MAX_NODES = 16
"""Nodes of a cluster that are shown, those with work first."""


class PlainDisplay:
    """Lines for a pipe or a log.

    Args:
        console: Where they go.
        n_cells: Cells of the run.
        short: Shortens the names of users' files.
    """

    def __init__(self, console: Console, n_cells: int, short: ShortNames = WHOLE) -> None:
        self.console = console
        self.n_cells = n_cells
        self.short = short
        self.n_before = 0
        self.n_done = 0
        self.began = time.monotonic()
        self.told = 0.0
        self.phase = ""
        self.several = False

    def __call__(self, event: Event) -> None:
        """Print a line where the event deserves one."""
        if event.kind == "run":
            self.n_before = self.n_done = event.done or 0
            self._line(f"{event.text}: {self.n_cells} cells, {self.n_done} done already")
        elif event.kind == "record":
            self.n_done += 1
            if not unrun(event):
                self._line(f"[{self.n_done}/{self.n_cells}] {ending(event, several=self.several)}")
        elif event.cluster is not None:
            self.several = True
            self._cluster(event.cluster)
        elif event.kind == "waiting":
            self._line(event.text)
        elif event.kind in ("cell", "lost") and event.cell is not None:
            self._line(f"{event.cell.label}: {event.text}")
        elif event.cell is not None:
            self._progress(event, event.cell.label)

    def _progress(self, event: Event, label: str) -> None:
        # A new phase is told at once, progress within it now and then.
        phase = f"{event.kind} {label}"
        if phase != self.phase or time.monotonic() - self.told > PLAIN_S:
            self.phase, self.told = phase, time.monotonic()
            self._line(f"{label}: {event.text}, {event.done} of {event.total or '?'}")

    def _cluster(self, cluster: ClusterState) -> None:
        if time.monotonic() - self.told > PLAIN_S:
            self.told = time.monotonic()
            nodes = "; ".join(_words(node) for node in shown(cluster))
            more = _more(cluster)
            self._line("; ".join(filter(None, (nodes, more, summary(cluster), self._left()))))

    def _left(self) -> str:
        done = self.n_done - self.n_before
        if not done:
            return ""
        left_s = (time.monotonic() - self.began) / done * (self.n_cells - self.n_done)
        return f"about {left_s / 60:.0f} min left"

    def _line(self, text: str) -> None:
        self.console.print(escape(self.short(text)), soft_wrap=True)


class Doing(ProgressColumn):
    """What is being done, on one line: the only column that is cut where a terminal is narrow."""

    def render(self, task: Task) -> Text:
        """The description of a bar, of which the end is cut."""
        return Text(task.description, no_wrap=True, overflow="ellipsis")


class Bars(Progress):
    """Bars, and below them what each node of a cluster does."""

    cluster: ClusterState | None = None

    def get_renderables(self) -> Iterable[RenderableType]:
        """The bars, then the nodes."""
        yield self.make_tasks_table(self.tasks)
        if self.cluster is not None:
            yield _nodes(self.cluster)


class LiveDisplay:
    """Bars on a terminal: all cells, and the phase at work or, of a cluster, its nodes.

    Args:
        progress: The bars.
        n_cells: Cells of the run.
        short: Shortens the names of users' files.
    """

    def __init__(self, progress: Bars, n_cells: int, short: ShortNames = WHOLE) -> None:
        self.progress = progress
        self.short = short
        self.overall: TaskID = progress.add_task("cells", total=n_cells)
        self.phase: TaskID = progress.add_task("starting", total=None)
        self.phase_name = ""

    def __call__(self, event: Event) -> None:
        """Move the bars; a finished cell leaves a line above them."""
        if event.kind == "run":
            self.progress.update(self.overall, completed=event.done or 0, description=event.text)
        elif event.kind == "record":
            self.progress.advance(self.overall)
            if not unrun(event):
                self._line(ending(event, several=self.progress.cluster is not None))
        elif event.cluster is not None:
            self.progress.update(self.phase, visible=False)
            self.progress.cluster = event.cluster
        elif event.kind == "waiting":
            self._line(event.text)
        elif event.kind == "lost" and event.cell is not None:
            self._line(f"{event.cell.label}: {event.text}")
        elif event.cell is not None:
            self._show_phase(event, event.cell.label)

    def _show_phase(self, event: Event, label: str) -> None:
        name = f"{event.kind} {label}"
        if name != self.phase_name:
            self.progress.reset(self.phase, total=event.total)
            self.phase_name = name
        description = self.short(f"{event.text}: {label}")  # of a narrow line the end is cut
        self.progress.update(self.phase, description=description, completed=event.done or 0, total=event.total)

    def _line(self, text: str) -> None:
        self.progress.console.print(escape(self.short(text)))


def unrun(event: Event) -> bool:
    """Whether an event is of a cell that there was nothing to measure of: the end of the run names all in one line."""
    return event.record is not None and event.record.status in NOT_RUN


def ending(event: Event, *, several: bool) -> str:
    """How a cell ended, on which of several machines, and where to read more of a failure."""
    assert event.cell is not None, "a record is of a cell"
    where = f" on {event.node}" if several else ""
    record = event.record
    if record is None or not record.reason:
        return f"{event.cell.label}{where}: {event.text}"
    more = f" (nodebench logs {record.cell_id})" if record.stderr else ""
    return f"{event.cell.label}{where}: {event.text}: {record.reason}{more}"


def summary(cluster: ClusterState) -> str:
    """How much waits and how much has failed."""
    return f"{cluster.queued} part{'' if cluster.queued == 1 else 's'} queued, {cluster.failed} failed"


def shown(cluster: ClusterState) -> list[NodeState]:
    """The nodes that there is room for, those with work first."""
    return sorted(cluster.nodes, key=lambda node: not node.running)[:MAX_NODES]


def _more(cluster: ClusterState) -> str:
    hidden = len(cluster.nodes) - MAX_NODES
    return f"{hidden} more nodes" if hidden > 0 else ""


def _words(node: NodeState) -> str:
    failed = f", {node.failed} failed" if node.failed else ""
    return f"{node.name}: {node.done} done{failed}, {', '.join(node.running) or 'idle'}"


def _nodes(cluster: ClusterState) -> Table:
    # Only the last column gives way where there is no room.
    table = Table(box=None, padding=(0, 2, 0, 0), expand=True, caption=_caption(cluster), caption_justify="left")
    table.add_column("node", no_wrap=True)
    table.add_column("done", justify="right")
    table.add_column("failed", justify="right")
    table.add_column("at work on", ratio=1, overflow="ellipsis", no_wrap=True)
    for node in shown(cluster):
        table.add_row(escape(node.name), str(node.done), str(node.failed), escape("\n".join(node.running) or "-"))
    return table


def _caption(cluster: ClusterState) -> str:
    return ", ".join(filter(None, (summary(cluster), _more(cluster))))


@contextmanager
def display(console: Console, n_cells: int, short: ShortNames = WHOLE) -> Iterator[PlainDisplay | LiveDisplay]:
    """A display fit for the console, to be handed to a runner as `notify`."""
    if not console.is_terminal:
        yield PlainDisplay(console, n_cells, short)
        return
    columns = (
        Doing(),
        BarColumn(BAR_WIDTH, table_column=Column(no_wrap=True)),
        MofNCompleteColumn(table_column=Column(no_wrap=True)),
        TimeElapsedColumn(table_column=Column(no_wrap=True)),
        TimeRemainingColumn(table_column=Column(no_wrap=True)),
    )
    # From the beginning of the run: in the half minute that Rich looks back by default no cell may end.
    with Bars(*columns, console=console, transient=True, speed_estimate_period=RUN_S) as progress:
        yield LiveDisplay(progress, n_cells, short)


class Shown(Watcher):
    """Shows what it is told, and lets what is not broken be measured.

    Args:
        command: The command line.
        short: Shortens the names of users' files.
        err: Whether on stderr, since stdout is for something else.

    Attributes:
        plugins: The broken plugins that it was told of.
    """

    def __init__(self, command: str, short: ShortNames | None = None, *, err: bool = False) -> None:
        super().__init__(command)
        self.console = new_console(err=err)
        self.short = short or WHOLE
        self.plugins: Mapping[str, str] = {}

    @override
    def tell(self, line: str) -> None:
        self.console.print(escape(line), soft_wrap=True)

    @override
    def broken(self, plugins: Mapping[str, str]) -> None:
        self.plugins = plugins
        print_broken(plugins)

    @override
    @contextmanager
    def progress(self, n_cells: int) -> Iterator[Notify]:
        # Not before: Ray, once it has been joined, has put a handler of its own in place.
        with _ended_gently(), display(self.console, n_cells, self.short) as notify:
            yield notify


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
