"""Every exception of nodebench, and what those of others are in a sentence. This module imports none of ours.

NodebenchError
├── UserError             what was asked for cannot be done: the command line prints it and exits with 2
│   ├── UnknownNameError  a name that does not exist, with the near ones
│   ├── PluginError       a plugin that cannot be imported or breaks its contract
│   ├── DataError         a data set that is missing, cut short or altered
│   └── StoreError        a results store that cannot be read or written
└── CellError             a cell cannot be measured: it ends with this status and the rest of the matrix goes on
    ├── NotInstalledError `not_installed`
    ├── UnsupportedError  `unsupported`
    ├── FieldError        `failed`
    ├── DivergedError     `diverged`
    ├── StepLimitError    `failed`
    └── CheckpointError   `failed`
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, ClassVar, Literal

if TYPE_CHECKING:
    from pydantic import ValidationError

Status = Literal[
    "ok", "failed", "timeout", "oom", "diverged", "wrong_gradient", "incomparable", "unsupported", "not_installed"
]
"""How a cell ends."""

FEW = 4
"""So few names are all listed, near or not."""


class NodebenchError(Exception):
    """Root of the tree."""


class UserError(NodebenchError):
    """The request is wrong. The message says what was wanted, what came, and what to do."""


class UnknownNameError(UserError):
    """A name that does not exist.

    Args:
        kind: What the name should have been, for example `"backend"`.
        name: The name that came.
        known: The names that exist.
    """

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        names = sorted(known)
        near = get_close_matches(name, names, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(repr(n) for n in near)}?" if near else ""
        if not near or len(names) <= FEW:
            hint = f"{hint} there are: {', '.join(names) or 'none'}.".strip()
        Exception.__init__(self, f"unknown {kind} {name!r}; {hint}")


class PluginError(UserError):
    """A plugin cannot be imported or breaks its contract."""


class DataError(UserError):
    """A data set is missing, cut short or altered."""


class StoreError(UserError):
    """A results store cannot be read or written."""


class CellError(NodebenchError):
    """A cell cannot be measured."""

    status: ClassVar[Status] = "failed"


class NotInstalledError(CellError):
    """A framework or library is missing; the message names the pip command that installs it."""

    status = "not_installed"


class UnsupportedError(CellError):
    """A backend cannot do what the cell asks, for the reason given."""

    status = "unsupported"


class FieldError(CellError):
    """A vector field is no function of time, state and parameters that can be solved and differentiated as it is."""


class DivergedError(CellError):
    """A state, loss or gradient left the finite numbers."""

    status = "diverged"


class StepLimitError(CellError):
    """A solve needed more steps than its limit."""


class CheckpointError(CellError):
    """A checkpoint of a training cannot be read."""


@contextmanager
def user_error(what: str, kind: type[UserError] = UserError) -> Iterator[None]:
    """Turn an `OSError` within the block into a `UserError`: what cannot be done, and why in the system's words."""
    try:
        yield
    except OSError as error:
        raise kind(f"{what}: {error.strerror or error}.") from error


def first_error(error: "ValidationError") -> tuple[str, str, Any]:
    """Of what pydantic found wrong the first: where in the value, what in words, and what came."""
    first = error.errors()[0]
    return ".".join(str(part) for part in first["loc"]), first["msg"], first["input"]


def raised(error: BaseException) -> str:
    """What was raised: its type, and what it says where it says something."""
    return f"{type(error).__name__}: {error}" if str(error).strip() else type(error).__name__


def last_line(text: str) -> str:
    """The last line that is not empty, which in what a failed program has printed is the error; empty where none is."""
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")
