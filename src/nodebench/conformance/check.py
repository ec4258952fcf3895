"""A check: one thing that a plugin must do, with the sentence that says so."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal
from unittest import SkipTest

from typing_extensions import override

from nodebench.errors import CellError, NodebenchError, NotInstalledError

State = Literal["ok", "failed", "skipped"]


class CheckFailedError(AssertionError):
    """A plugin does not do what it must; the message says what it does, in a sentence."""


class NotApplicableError(SkipTest):
    """A check does not apply to this plugin, or cannot be made here; test runners take it for a skipped test."""


@dataclass(frozen=True)
class CheckOutcome:
    """What came of a check.

    Attributes:
        check: Its name.
        meaning: What the plugin must do, in a sentence.
        state: `ok`, `failed` or `skipped`.
        reason: Why it failed or was skipped, in a sentence; empty where it is ok.
    """

    check: str
    meaning: str
    state: State
    reason: str = ""


@dataclass(frozen=True)
class Check:
    """One check of one plugin. Calling it raises `CheckFailedError`, or `unittest.SkipTest` where it does not apply.

    Attributes:
        body: What is checked, a function of the subject; its name and the first line of its docstring are the check's.
        subject: What it is given.
    """

    body: Callable[[Any], None]
    subject: Any

    def __call__(self) -> None:
        """Make the check."""
        try:
            self.body(self.subject)
        except NotInstalledError as error:
            raise NotApplicableError(str(error)) from error

    @override
    def __str__(self) -> str:
        return self.name

    @property
    def name(self) -> str:
        """In words."""
        return self.body.__name__.replace("_", " ")

    @property
    def meaning(self) -> str:
        """What the plugin must do, in a sentence."""
        return (self.body.__doc__ or "").partition("\n")[0]

    def outcome(self) -> CheckOutcome:
        """Make the check, and give what came of it as a value."""
        try:
            self()
        except SkipTest as error:
            return CheckOutcome(self.name, self.meaning, "skipped", _sentence(error))
        except Exception as error:  # noqa: BLE001  whatever a plugin raises fails its check
            return CheckOutcome(self.name, self.meaning, "failed", _sentence(error))
        return CheckOutcome(self.name, self.meaning, "ok")


def checks_of(bodies: Sequence[Callable[[Any], None]], subject: Any) -> list[Check]:
    """The checks of a subject."""
    return [Check(body, subject) for body in bodies]


def require(condition: object, sentence: str) -> None:
    """Fail the check with a sentence unless a condition holds.

    Raises:
        CheckFailedError: If it does not.
    """
    if not condition:
        raise CheckFailedError(sentence)


def _sentence(error: Exception) -> str:
    text = " ".join(str(error).split())
    told = isinstance(error, CheckFailedError | NodebenchError | CellError | SkipTest)
    return text if told else f"it raises {type(error).__name__}: {text}"
