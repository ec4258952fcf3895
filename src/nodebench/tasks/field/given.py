"""A field that is given, by its file or as an object of the caller's process: no class of a task need be written."""

import ast
import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import numpy as np
from typing_extensions import override

from nodebench.errors import PluginError, UnsupportedError, UserError, user_error
from nodebench.frameworks.base import Optimizer, Weights
from nodebench.importing import read_files
from nodebench.problem import SolverSpec
from nodebench.registry import load_class
from nodebench.tasks.base import AbstractTask, GradientInputs, Metric, ModelEntry, Preset, Recipe, Splits
from nodebench.tasks.field.objects import GivenProblem, unpacked
from nodebench.tasks.field.task import States, by_part, check_states

MODELS: Mapping[str, str] = {
    "torch": "nodebench.tasks.field.torch:GivenODE",
    "jax": "nodebench.tasks.field.jax:GivenODE",
}

WEIGHTS: Mapping[str, str] = {
    "torch": "nodebench.tasks.field.torch:given_weights",
    "jax": "nodebench.tasks.field.jax:given_weights",
}

LIBRARIES: Mapping[str, str] = {"torch": "torch", "jax": "jax", "jaxlib": "jax", "equinox": "jax"}
"""The framework that a package belongs to."""

SHAPE = re.compile(r"\d+(x\d+)*")

MOST_TIMES = 100_000


@dataclass(frozen=True)
class FieldSource:
    """Where a field comes from, in words: so the processes that measure it make the same one.

    Attributes:
        field: `file.py:Name` or `module:Name`; of an object its name alone.
        init: Keyword arguments of the class as `name=value` with commas between them.
        weights: File of its weights; empty for those that it is made with.
        digest: Digest of an object of the caller's process; empty where the field is in a file.
        times: Output times.
    """

    field: str
    init: str
    weights: str
    digest: str
    times: tuple[float, ...]

    @property
    def given(self) -> GivenProblem | None:
        """The object of the caller's process, made anew; None where the field is in a file."""
        return unpacked(self.digest) if self.digest else None

    @property
    def found(self) -> Any:
        """What stands in the file under the name: a class, an object or a function.

        Raises:
            UserError: If it is no class, and there are arguments to make it with.
        """
        found = load_class(self.field)
        if self.init and not isinstance(found, type):
            raise UserError(f"`--init-args` are those of a class, and `{self.field}` is {type(found).__name__}.")
        return found

    def made(self, **more: object) -> Any:
        """The class called with its arguments.

        Args:
            more: Arguments beside those that were given.

        Raises:
            PluginError: If it cannot be called so.
        """
        cls = self.found
        arguments = {**more, **init_arguments(self.init)}
        try:
            return cls(**arguments)
        except TypeError as error:
            said = ", ".join(f"{name}={value!r}" for name, value in arguments.items())
            raise PluginError(
                f"`{self.field}` cannot be made as {cls.__name__}({said}): {error}; its arguments are given by "
                "`--init-args name=value`."
            ) from error


@dataclass(frozen=True)
class GivenField(AbstractTask):
    """A field of one's own, without a class of a task: from where, for how long, with which weights.

    Only its gradient is measured: to be trained it needs data, which a task has (`nodebench new task`). The loss is the
    mean of the squares of the last state, where an object does not bring its own.

    Attributes:
        field: `file.py:Name` or `module:Name`: a class, an object or a function; of an object its name.
        y0: Initial state: a shape such as `64x2`, drawn from the seed (normal), several joined by `+` for a tuple; or
            a file, .npy or .pt.
        times: Output times: `first:last:number`, or several with commas between them.
        weights_file: File of the weights: .pt, .safetensors or .eqx; by default those that the field is made with.
        init: Keyword arguments of the class, `name=value` with commas between them.
        digest: Digest of an object of the caller's process, as `nodebench.compare` gives it.

    Raises:
        UserError: If the initial state or the times cannot be read.
    """

    field: str
    y0: str = ""
    times: str = "0:1:2"
    weights_file: str = ""
    init: str = ""
    digest: str = ""

    metric: ClassVar[Metric] = Metric("none", "1", "lower")
    default_model: ClassVar[str] = "field"
    spec: ClassVar[SolverSpec] = SolverSpec(solver="dopri5", rtol=1e-5, atol=1e-5, max_steps=4096)

    @cached_property
    def _given(self) -> GivenProblem | None:
        return unpacked(self.digest) if self.digest else None

    @cached_property
    def source(self) -> FieldSource:
        """Where the field comes from."""
        times = self._given.times if self._given else parse_times(self.times)
        return FieldSource(self.field, self.init, self.weights_file, self.digest, times)

    @property
    @override
    def models(self) -> Mapping[str, ModelEntry]:  # type: ignore[override]  # known only when the field is
        """The field in its framework, found by its type."""
        framework = self._given.framework if self._given else framework_of(self.source.found, self.field)
        return {"field": ModelEntry({framework: MODELS[framework]})}

    @override
    def data_source(self) -> str:
        return "given"

    @override
    def data(self, preset: Preset, seed: int) -> Splits:
        """There is none.

        Raises:
            UnsupportedError: Always.
        """
        del preset, seed
        raise UnsupportedError(
            "a field by itself has no data to be trained on; `nodebench new task` makes a task, which has."
        )

    @override
    def training_examples(self, preset: Preset, seed: int) -> int:
        del preset
        return len(_first(self.initial_states(seed)))

    @override
    def gradient_examples(self, seed: int) -> int | None:
        return None if self._is_drawn else self.training_examples("quick", seed)

    @override
    def recipe(self, model: str, preset: Preset) -> Recipe:
        """Of what a training would be, the batch: as many as there are initial states."""
        del model, preset
        first = _first(self.initial_states(0))
        return Recipe(Optimizer(), batch_size=len(first) if first.ndim else 1, epochs=0)

    @override
    def model_options(self, model: str) -> Mapping[str, object]:
        del model
        return {"source": self.source}

    @override
    def weights(self, model: str, seed: int) -> Weights:
        """Those of the object or of the file, or of a field made after seeding its framework."""
        (framework,) = self.models[model].targets
        drawn: Weights = load_class(WEIGHTS[framework])(self.source, seed)
        return drawn

    @override
    def problem(self, model: str, seed: int, batch_size: int) -> GradientInputs:
        y0 = self.initial_states(seed, batch_size)
        return GradientInputs(self.weights(model, seed), by_part("y0", y0), dataset="initial-state")

    @property
    def _is_drawn(self) -> bool:
        return not self.digest and all(SHAPE.fullmatch(part) for part in self.y0.split("+"))

    def initial_states(self, seed: int, n: int | None = None) -> States:
        """The initial state, or its first so many rows; what is drawn is drawn with so many rows.

        Raises:
            UserError: If there is none, or it cannot be read.
        """
        if self._is_drawn:
            return _drawn(self.y0, seed, n)
        states = self._given.y0 if self._given else read_states(self.y0)
        check_states(f"`y0` of `{self.field}`", states)
        if n is None or not _first(states).ndim:
            return states
        return tuple(part[:n] for part in states) if isinstance(states, tuple) else states[:n]


def parse_times(text: str) -> tuple[float, ...]:
    """Output times from `first:last:number` or `t0,t1,...`.

    Raises:
        UserError: If the text is neither.
    """
    separator = ":" if ":" in text else ","
    pieces = text.strip("[]").split(separator)
    try:
        if separator == ",":
            return tuple(map(float, pieces))
        start, end, number = float(pieces[0]), float(pieces[1]), int(pieces[2])
        if len(pieces) == 3 and 2 <= number <= MOST_TIMES:
            return tuple(np.linspace(start, end, number).tolist())
    except (ValueError, IndexError):
        pass
    raise UserError(
        f"`--times` must be first:last:number, as in 0:5:11 for eleven times from 0 to 5, or several times with commas "
        f"between them; got {text!r}."
    )


def init_arguments(text: str) -> dict[str, object]:
    """Keyword arguments from `name=value,name=value`; a value is a Python literal, or else text.

    Raises:
        UserError: If it is no such list.
    """
    call = f"f({text.removeprefix('[').removesuffix(']')})"
    try:
        parsed = ast.parse(call, mode="eval").body
    except SyntaxError:
        parsed = None
    if not isinstance(parsed, ast.Call) or parsed.args or not all(each.arg for each in parsed.keywords):
        raise UserError(f"`--init-args` must be name=value, with commas between them; got {text!r}.")
    return {str(each.arg): _value(call, each.value) for each in parsed.keywords}


def _value(call: str, node: ast.expr) -> object:
    try:
        return ast.literal_eval(node)
    except ValueError:
        return ast.get_source_segment(call, node)


def framework_of(value: object, name: str) -> str:
    """The framework that a field is written for: by the class that it is or is derived from, or what its file imports.

    Raises:
        PluginError: If it is neither a module of a framework nor a function of a file that imports one of them.
    """
    classes = value.__mro__ if isinstance(value, type) else type(value).__mro__
    for cls in classes:
        found = LIBRARIES.get(cls.__module__.partition(".")[0])
        if found:
            return found
    if not callable(value):
        raise PluginError(f"`{name}` must be a field, called as field(t, y); it is {type(value).__name__}.")
    while isinstance(value, partial):
        value = value.func
    held = getattr(value, "__globals__", {}).values()
    if not held:
        kind = f"the class {value.__name__}" if isinstance(value, type) else f"an object of {type(value).__name__}"
        raise PluginError(
            f"`{name}` is {kind}, which is derived from neither `torch.nn.Module` nor `equinox.Module`; derive it from "
            "one of them, or write a function."
        )
    packages = (held_name(part).partition(".")[0] for part in held)
    imported = {LIBRARIES[package] for package in packages if package in LIBRARIES}
    if len(imported) == 1:
        return imported.pop()
    both = " imports both torch and JAX" if imported else " imports neither torch nor JAX"
    raise PluginError(f"`{name}` is a function, and its file{both}; make it a `torch.nn.Module` or `equinox.Module`.")


def held_name(value: object) -> str:
    """The module that a global is, or comes from."""
    return value.__name__ if isinstance(value, ModuleType) else str(getattr(value, "__module__", ""))


def _first(states: States) -> np.ndarray:
    return states[0] if isinstance(states, tuple) else states


def _drawn(text: str, seed: int, n: int | None) -> States:
    rng = np.random.default_rng((seed, 1))
    parts = []
    for shape in text.split("+"):
        sizes = [int(size) for size in shape.split("x")]
        if not all(sizes):
            raise UserError(f"`--y0` must have numbers in it; got the shape {text}.")
        parts.append(rng.standard_normal(sizes if n is None else [n, *sizes[1:]]))
    return tuple(parts) if len(parts) > 1 else parts[0]


def read_states(path: str) -> States:
    """The initial state in a file: an array in .npy, a tensor or a tuple of them in .pt.

    Raises:
        UserError: If there is none, or it holds something else.
    """
    if not path:
        raise UserError("say where the field starts: `--y0 64x2` draws a state of that shape, `--y0 y0.npy` reads one.")
    file = existing_file("--y0", path)
    if file.suffix == ".npy":
        try:
            array: np.ndarray = np.load(file, allow_pickle=False)
        except ValueError as error:
            raise UserError(f"`{path}` holds no plain array: {error}.") from error
        return array
    if file.suffix in (".pt", ".pth"):
        states: States = load_class("nodebench.tasks.field.torch:read_states")(file)
        return states
    raise UserError(f"`--y0` must be a shape such as 64x2, or a file .npy or .pt; got {path!r}.")


def existing_file(option: str, path: str) -> Path:
    """A file that has been named, of whose content what is measured depends from now on.

    Raises:
        UserError: If there is none.
    """
    file = Path(path)
    if not file.is_file():
        raise UserError(f"`{option}`: there is no file `{path}`.")
    with user_error(f"`{path}` cannot be read"):
        file.open("rb").close()
    read_files.add(str(file.absolute()))
    return file


def check_names(path: str, found: Mapping[str, tuple[int, ...]], wanted: Mapping[str, tuple[int, ...]]) -> None:
    """See that the weights in a file are those of a field.

    Args:
        path: The file.
        found: Shapes of what it holds, by name.
        wanted: Shapes of what the field has, by name.

    Raises:
        UserError: If a name is missing or unknown, or a shape is another.
    """
    for problem, names in (("lacks", wanted.keys() - found.keys()), ("has also", found.keys() - wanted.keys())):
        if names:
            known = ", ".join(f"`{name}`" for name in sorted(wanted)) or "none"
            named = ", ".join(f"`{name}`" for name in sorted(names))
            raise UserError(f"the weights file `{path}` {problem} {named}; the weights of the field are {known}.")
    for name, shape in found.items():
        if shape != wanted[name]:
            raise UserError(
                f"the weights file `{path}` has `{name}` of shape {shape}, the field has it of shape {wanted[name]}."
            )


def called_with(function: Callable[..., Any], parameters: Any) -> tuple[Any, ...]:
    """What a function is called with after time and state: the parameters of a tuple one by one, or all as one value.

    They are one value where they are no tuple, and where the function takes a single argument more for several.
    """
    if not isinstance(parameters, tuple | list):
        return (parameters,)
    try:
        taken = [p for p in inspect.signature(function).parameters.values() if p.kind in _BY_PLACE]
    except ValueError:  # of a function in C nothing is known
        return tuple(parameters)
    is_one = len(taken) == 3 and len(parameters) != 1 and taken[-1].kind != inspect.Parameter.VAR_POSITIONAL
    return (tuple(parameters),) if is_one else tuple(parameters)


_BY_PLACE = (
    inspect.Parameter.POSITIONAL_ONLY,
    inspect.Parameter.POSITIONAL_OR_KEYWORD,
    inspect.Parameter.VAR_POSITIONAL,
)
