"""What a runner and a worker of two versions must agree on to speak with each other.

Messages are pickled instances of classes that both sides have, and a pickle does not notice that a field is missing
until somebody reads it. So the fields themselves are compared, and the commands with their parameters. This module's
text is also run as a program by the other version's interpreter, and prints there what that version has.
"""

import inspect
import json
import sys
from dataclasses import fields, is_dataclass

from nodebench.bench import messages
from nodebench.bench.launcher import HANDED
from nodebench.bench.machine import fingerprint
from nodebench.bench.plan import Cell
from nodebench.bench.worker import Worker
from nodebench.problem import Evaluations, SolverSpec


def protocol() -> dict[str, list[str]]:
    """Everything that is said, by name: fields of the messages, parameters of the commands, Python's version.

    The version of Python belongs to it because pickles of the standard library's own classes are not readable by all.
    """
    spoken = [
        cls
        for cls in vars(messages).values()
        if isinstance(cls, type) and is_dataclass(cls) and cls.__module__ == messages.__name__
    ]
    described = {cls.__name__: [f.name for f in fields(cls)] for cls in (Cell, SolverSpec, Evaluations, *spoken)}
    commands = Worker(None, None).commands()  # type: ignore[arg-type]  # its commands are read, not carried out
    described |= {f"command {name}": list(inspect.signature(call).parameters) for name, call in commands.items()}
    described["launcher"] = list(HANDED)
    return described | {"Python": [f"{sys.version_info.major}.{sys.version_info.minor}"]}


def main() -> None:
    """Print what this version is."""
    found = {"file": messages.__file__, "protocol": protocol(), "environment": fingerprint()}
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main()
