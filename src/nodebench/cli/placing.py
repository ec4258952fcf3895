"""Where the work of a command is done, as its options say."""

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

from rich.console import Console

from nodebench.cli.printing import escape_markup
from nodebench.errors import UserError


@dataclass(frozen=True)
class AbstractPlace(ABC):
    """Where work is done.

    Attributes:
        checkpoint_dir: Folder of training checkpoints, or None for one beside the store.
    """

    checkpoint_dir: str | None = None

    @abstractmethod
    def ready(self, planned: Any, settings: Any, console: Console) -> AbstractContextManager[tuple[Any, Any]]:
        """What does the work of a plan, and the fingerprint of where it is done."""


@dataclass(frozen=True)
class Here(AbstractPlace):
    """This machine."""

    @contextmanager
    def ready(self, planned: Any, settings: Any, console: Console) -> Iterator[tuple[Any, Any]]:
        """What does the work, and the fingerprint of where it is done."""
        from nodebench.bench.checkpoints import check_folder  # noqa: PLC0415
        from nodebench.bench.executor import LocalExecutor  # noqa: PLC0415
        from nodebench.bench.machine import finds_cuda, fingerprint  # noqa: PLC0415

        del settings, console
        wanted = {cell.framework for cell in planned.cells if cell.device == "cuda"}
        if wanted and not any(map(finds_cuda, sorted(wanted))):
            raise UserError(f"`--device` is cuda, and {' and '.join(sorted(wanted))} finds no CUDA device here.")
        if self.checkpoint_dir is not None:
            check_folder(self.checkpoint_dir)
        yield LocalExecutor(), fingerprint()


@dataclass(frozen=True)
class OnCluster(AbstractPlace):
    """A Ray cluster; attributes as those of `nodebench.cluster.session.Choices`."""

    address: str | None = None
    group_cpus: int | None = None
    retries: int | None = None
    allow_mixed: bool = False

    @contextmanager
    def ready(self, planned: Any, settings: Any, console: Console) -> Iterator[tuple[Any, Any]]:
        """What does the work, once the cluster has been found fit for it."""
        from nodebench.cluster.choices import Choices  # noqa: PLC0415
        from nodebench.cluster.rehearsal import rehearse  # noqa: PLC0415
        from nodebench.tasks.mnist.data import FOLDER_VARIABLE  # noqa: PLC0415

        choices = Choices(
            address=self.address,
            checkpoint_dir=self.checkpoint_dir,
            group_cpus=self.group_cpus,
            allow_mixed=self.allow_mixed,
            **({} if self.retries is None else {"retries": self.retries}),
        )
        console.print("joining the Ray cluster and looking at its nodes" if self.address else "starting Ray")
        rehearse(self.address)
        # Only now: it imports Ray, which must know by then whether it is to show a token.
        from nodebench.cluster.session import session  # noqa: PLC0415

        with session(choices, planned, settings, os.environ.get(FOLDER_VARIABLE)) as ready:
            nodes = ready.executor.nodes
            n_cpus, n_gpus = sum(node.cpus for node in nodes), sum(node.gpus for node in nodes)
            counted = f"{len(nodes)} node{'s' if len(nodes) > 1 else ''}, {n_cpus} CPUs, {n_gpus} GPUs"
            own = ready.executor.group_cpus
            console.print(f"{counted}; cells timed in turns have {own} CPU{'s' if own > 1 else ''} to themselves")
            for difference in ready.survey.differences:
                console.print(f"unlike: {escape_markup(difference)}", soft_wrap=True)
            if planned.measure in ("training", "both") and not ready.executor.shares_checkpoints:
                console.print("no --checkpoint-dir: a training that loses its node begins anew", soft_wrap=True)
            yield ready.executor, ready.environment
