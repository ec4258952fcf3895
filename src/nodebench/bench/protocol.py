"""What a runner and a worker of two versions must agree on to speak with each other.

Messages are pickled instances of classes that both sides have, and a pickle does not notice that a field is missing
until somebody reads it. So the fields themselves are compared, and the questions with their parameters. This module's
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
from nodebench.problem import Evaluations, SolverSpec
from nodebench.results.record import Measurement


def protocol() -> dict[str, list[str]]:
    """Everything that is said, by name: fields of the messages, parameters of the commands, Python's version.

    The version of Python belongs to it because pickles of the standard library's own classes are not readable by all.
    """
    spoken = [
        cls
        for cls in vars(messages).values()
        if isinstance(cls, type) and is_dataclass(cls) and cls.__module__ == messages.__name__
    ]
    spoken += [Cell, SolverSpec, Evaluations, Measurement]
    described = {cls.__name__: [f.name for f in fields(cls)] for cls in spoken}
    questions = {name: call for name, call in vars(messages.Questions).items() if inspect.isfunction(call)}
    described |= {
        f"question {name}": list(inspect.signature(call).parameters)[1:]
        for name, call in questions.items()
        if not name.startswith("_")
    }
    described["launcher"] = list(HANDED)
    return described | {"Python": [f"{sys.version_info.major}.{sys.version_info.minor}"]}


def main() -> None:
    """Print what this version is."""
    found = {"file": messages.__file__, "protocol": protocol(), "environment": fingerprint()}
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main()
