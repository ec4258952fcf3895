"""What a notebook shows while something is measured: one line that changes in its place."""

import html
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from typing_extensions import override

from nodebench.bench.messages import Event
from nodebench.measuring import Notify, Watcher


def watcher() -> Watcher:
    """What shows a caller in Python what goes on: a notebook in its cell, a terminal on stderr, nobody else."""
    if in_notebook():
        return NotebookWatcher()
    if sys.stderr is not None and sys.stderr.isatty():
        from nodebench.progress import Shown

        return Shown(Watcher().command, err=True)
    return Watcher()


def in_notebook() -> bool:
    """Whether this process is the kernel of a notebook, which shows pages."""
    shell = sys.modules.get("IPython")
    return shell is not None and hasattr(shell.get_ipython(), "kernel")


class NotebookWatcher(Watcher):
    """Shows a bar and what is being done below the cell that is being executed, and nothing when that is over."""

    @override
    @contextmanager
    def progress(self, n_cells: int) -> Iterator[Notify]:
        display: Any = sys.modules["IPython"].display
        n_done, handle = 0, display.display(display.HTML(_line("starting", 0, n_cells)), display_id=True)

        def notify(event: Event) -> None:
            nonlocal n_done
            n_done += event.kind == "record"
            what = event.cell.backend if event.cell is not None else ""
            text = event.text if not what else f"{what}: {event.text}"
            handle.update(display.HTML(_line(text, n_done, n_cells)))

        try:
            yield notify
        finally:
            handle.update(display.HTML(""))


def _line(text: str, n_done: int, n_cells: int) -> str:
    return f'<progress value="{n_done}" max="{n_cells}"></progress> {n_done} of {n_cells} cells; {html.escape(text)}'
