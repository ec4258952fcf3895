"""Fakes that need no torch and no JAX, a framework, a task and a backend, and backends with planted faults.

The fakes fail on demand, and enter by the same door as any plugin: `nodebench run -b nodebench.testing:FakeBackend -t
nodebench.testing:FakeTask`. The faults are what the harness and its gate must find.
"""

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from nodebench import registry
from nodebench.backends.base import AbstractBackend
from nodebench.errors import DivergedError, NotInstalledError
from nodebench.frameworks.base import (
    AbstractFramework,
    AbstractTrainer,
    Batch,
    FieldCalls,
    GradientStep,
    Optimizer,
    Solve,
    Weights,
    solve_checked,
)
from nodebench.plots import Plot, View
from nodebench.problem import Array, Evaluations, Field, Gradients, Problem, SolverSpec, State, StepGrid
from nodebench.tasks.base import AbstractTask, GradientInputs, Metric, ModelEntry, Preset, Recipe, Splits

Behaviour = Literal[
    "ok", "raise", "crash", "hang", "memory", "nan", "missing", "unsupported", "wrong", "shifted", "die", "until",
    "while",
]  # fmt: skip


@dataclass(frozen=True)
class FakeBackend(AbstractBackend):
    """Solves dy/dt = a y exactly, and misbehaves as told.

    Attributes:
        behaviour: `raise`, `crash` (SIGKILL), `die` (exits with last words), `hang`, `memory` (asks for far too much),
            `nan`, `missing` (a library that is not there), `unsupported`, `wrong` (a gradient of the wrong sign),
            `shifted` (solution and gradient a fifth too large), `until` (raises until there is a file), `while` (works
            while there is one) or `ok`.
        sleep_s: Duration of one solve, in seconds.
        work: Products of two matrices of 64 x 64 numbers in one solve: what it costs where `sleep_s` only passes time.
        path: The file of `until` and `while`.
        compiled: Whether it says of itself that its first step compiles.
    """

    framework: ClassVar[str] = "nodebench.testing:FakeFramework"
    exact_counterpart = "nodebench.testing:FakeBackend"  # which behaves
    behaviour: Behaviour = "ok"
    sleep_s: float = 0.0
    work: int = 0
    path: str = ""
    compiled: bool = False

    def unsupported(self, problem: Problem, spec: SolverSpec) -> str | None:
        """Whatever its behaviour says."""
        del problem, spec
        return "this fake supports nothing." if self.behaviour == "unsupported" else None

    def solve(self, field: Field, y0: State, times: Array, spec: SolverSpec) -> State:
        """The exact solution, after the misbehaviour."""
        del spec
        time.sleep(self.sleep_s)
        for _ in range(self.work):
            _MATRIX @ _MATRIX
        if self.behaviour in ("until", "while") and not Path(self.path).exists():
            raise ValueError(f"the fake raises without {self.path}")
        _misbehave(self.behaviour)
        growth = np.exp(field.rate * (times - times[0]))[:, None]  # type: ignore[attr-defined]  # a FakeField
        return {"wrong": -1.0, "shifted": 1.2}.get(self.behaviour, 1.0) * growth * y0

    @property
    def compiles(self) -> bool:
        """As its option says."""
        return self.compiled

    def grid(self, field: Field, y0: State, times: Array, spec: SolverSpec) -> StepGrid | None:
        """One step per output time."""
        del field, y0, spec
        return StepGrid(tuple(float(t) for t in times), 0)


_MATRIX = np.eye(64)


def _misbehave(behaviour: Behaviour) -> None:
    match behaviour:
        case "raise":
            raise ValueError("the fake raises as told")
        case "crash":
            os.kill(os.getpid(), signal.SIGKILL)
        case "die":
            sys.stderr.write("last words\n")
            sys.stderr.flush()
            os._exit(3)
        case "hang":
            time.sleep(3600)
        case "memory":
            np.ones(2**62, dtype=np.uint8)
        case "nan":
            raise DivergedError("the state left the finite numbers at t = 0.5, in step 3.")
        case "missing":
            raise NotInstalledError("nosuchlibrary is not installed; install with: pip install nosuchlibrary")


@dataclass(frozen=True)
class FakeField:
    """dy/dt = rate * y."""

    rate: float

    def __call__(self, t: Array, y: State) -> State:
        """The derivative."""
        del t
        return self.rate * y  # type: ignore[operator]  # a fake's state is one array


@dataclass
class FakeModel:
    """One number, the rate; its loss is the sum of the final state."""

    solve: Callable[[Field, State, Array], State] | None = None
    rate: float = 0.0


@dataclass(frozen=True)
class FakeStep:
    """The gradient step of a `FakeModel`, from the solution alone."""

    solve: Solve
    problem: Problem
    spec: SolverSpec

    def step(self) -> Gradients:
        """The gradient of the sum of the final state."""
        return self.backward(self.forward())

    def forward(self) -> State:
        """The solution."""
        return solve_checked(self.solve, self.problem.field, self.problem.y0, self.problem.times, self.spec)

    def backward(self, state: Array) -> Gradients:
        """Derivatives read off the solution: of the initial state, and of the rate."""
        times, y0 = self.problem.times, self.problem.y0
        loss = float(state[-1].sum())
        return Gradients(loss, state[-1] / y0, {"rate": np.array((times[-1] - times[0]) * loss)})

    def field_calls(self) -> FieldCalls | None:
        """The field, the field with the derivative of its only parameter, and the sum."""
        field, state, loss, states = self.problem.field, self.problem.y0, self.problem.loss, self.forward()

        def evaluate(n: int) -> None:
            for _ in range(n):
                field(0.0, state)

        def differentiate(n: int) -> None:
            evaluate(2 * n)

        def lose(n: int) -> None:
            for _ in range(n):
                loss(states)

        return FieldCalls(evaluate, differentiate, lose)


@dataclass
class FakeTrainer(AbstractTrainer):
    """Moves the rate towards the mean of the data; slow, diverging or dying on demand through the batch."""

    model: FakeModel
    learning_rate: float

    def step(self, batch: Batch) -> float:
        """One step of gradient descent on (rate - x)^2."""
        time.sleep(float(batch["sleep_s"][0]))
        difference = self.model.rate - float(batch["x"].mean())
        self.model.rate -= 2 * self.learning_rate * difference
        return difference**2

    def metric(self, batch: Batch) -> np.ndarray:
        """Distance of the rate from each example."""
        return np.abs(self.model.rate - batch["x"])

    def view(self, method: str, batch: Batch) -> Mapping[str, np.ndarray]:
        """The examples themselves, which is the one method to call."""
        if method != "diagnostics":
            raise AttributeError(f"no method {method!r}")
        return {"value": batch["x"]}

    def problem(self, batch: Batch) -> Problem:
        """The gradient problem at the present rate."""
        return FakeFramework("cpu", "float64", 1).problem(self.model, batch)

    def save(self, path: Path) -> None:
        """Write the rate, exactly."""
        path.write_text(json.dumps(self.model.rate))

    def restore(self, path: Path) -> None:
        """Read the rate."""
        self.model.rate = json.loads(path.read_text())


class FakeFramework(AbstractFramework):
    """NumPy, as far as the fakes need it."""

    name: ClassVar[str] = "fake"
    reference_backend: ClassVar[str | None] = "nodebench.testing:FakeBackend"

    def __init__(self, device: str, dtype: str, threads: int) -> None:
        del device, threads
        self.dtype = dtype

    def arrays(self, batch: Batch) -> Mapping[str, Array]:
        """The batch itself."""
        return batch

    def build(
        self, target: str, options: Mapping[str, Any], weights: Weights, solve: Callable[..., State] | None
    ) -> Any:
        """A `FakeModel`."""
        del target, options
        return FakeModel(solve, float(weights["rate"]))

    def n_params(self, model: Any) -> int:
        """One."""
        del model
        return 1

    def problem(self, model: Any, batch: Batch) -> Problem:
        """Growth over one unit of time."""
        return Problem(FakeField(model.rate), batch["x"][:3].astype(self.dtype), np.array([0.0, 1.0]), np.sum)

    def parameters(self, field: Field) -> Mapping[str, np.ndarray]:
        """The rate."""
        return {"rate": np.array(field.rate)}  # type: ignore[attr-defined]  # a FakeField

    def state(self, model: Any) -> Weights:
        """The rate."""
        return {"rate": np.array(model.rate)}

    def inspect(self, problem: Problem) -> None:
        """Nothing: a fake's field is right."""

    def vjp(self, problem: Problem, t: float, y: np.ndarray, covector: np.ndarray) -> tuple[np.ndarray, Weights]:
        """Of `rate * y`."""
        del t
        return problem.field.rate * covector, {"rate": np.array(covector @ y)}  # type: ignore[attr-defined]

    def loss(self, problem: Problem, states: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """The sum of all states, and its derivative."""
        return np.asarray(problem.loss(states)), np.ones_like(states)

    @contextmanager
    def moved(self, problem: Problem, y0: np.ndarray, params: Weights) -> Iterator[Problem]:
        """Another rate."""
        rate = float(params.get("rate", problem.field.rate))  # type: ignore[attr-defined]  # a FakeField
        yield replace(problem, field=FakeField(rate), y0=y0)

    def placement(self, problem: Problem) -> Mapping[str, str]:
        """As told."""
        return {"dtype": str(problem.y0.dtype), "device": "cpu", "threads": "1"}  # type: ignore[union-attr]

    def evaluate(self, problem: Problem) -> Callable[[float, np.ndarray], np.ndarray]:
        """The field itself."""
        return problem.field  # type: ignore[return-value]  # a fake's state is a NumPy array

    def flat_state(self, state: State) -> np.ndarray:
        """The state itself."""
        return np.ravel(np.asarray(state, dtype=np.float64))

    def gradient_step(self, solve: Solve, problem: Problem, spec: SolverSpec) -> GradientStep:
        """That of a `FakeStep`."""
        work = FakeStep(solve, problem, spec)
        return GradientStep(
            step=work.step,
            forward=work.forward,
            backward=work.backward,
            solution=work.forward,
            forward_evaluations=lambda: 7,
            evaluations=lambda: Evaluations(7, 5, 3),
            saved_bytes=lambda: 64,
            field_calls=work.field_calls,
        )

    def trainer(self, model: Any, optimizer: Optimizer, total_steps: int) -> AbstractTrainer:
        """A `FakeTrainer`."""
        del total_steps
        return FakeTrainer(model, optimizer.learning_rate)

    def to_numpy(self, gradients: Gradients) -> Gradients:
        """The gradients themselves."""
        return gradients

    def peak_device_bytes(self, call: Callable[[], object]) -> int | None:
        """None: there is no device."""
        del call
        return None


@dataclass(frozen=True)
class FakeTask(AbstractTask):
    """Growth at a rate that is to be learnt.

    Attributes:
        train_sleep_s: Duration of a training step, in seconds.
        diverges: Whether the data make the training diverge.
    """

    models: ClassVar[Mapping[str, ModelEntry]] = {
        "growth": ModelEntry({"nodebench.testing:FakeFramework": "nodebench.testing:FakeModel"}, summary="one number"),
        "constant": ModelEntry(
            {"nodebench.testing:FakeFramework": "nodebench.testing:FakeModel"}, uses_backend=False, summary="no ODE"
        ),
    }
    default_model: ClassVar[str] = "growth"
    spec: ClassVar[SolverSpec] = SolverSpec(rtol=1e-3, atol=1e-3)
    metric: ClassVar[Metric] = Metric("distance", "1", "lower")
    train_sleep_s: float = 0.0
    diverges: bool = False
    viewed: str = ""

    @property
    def diagnostics(self) -> tuple[Metric, ...]:
        """The mean of the examples."""
        return (Metric("value", "1", "lower"),)

    def plots(self, model: str, splits: Splits, view: View) -> Sequence[Plot]:
        """The test examples along a line, where a method to view them by is named."""
        del model
        if not self.viewed:
            return ()
        from matplotlib.figure import Figure  # noqa: PLC0415  slow to import

        figure = Figure()
        x = view(self.viewed, splits.test)["value"]
        figure.subplots().plot(x, np.zeros_like(x), "o", label="observed")
        figure.axes[0].set_title("ten numbers")
        return (Plot("examples", "Test examples", figure),)

    def data_source(self) -> str:
        """Drawn from the seed."""
        return "drawn from the seed"

    def data(self, preset: Preset, seed: int) -> Splits:
        """Sixty numbers around 0.7."""
        del preset
        x = 0.7 + 0.1 * np.random.default_rng(seed).standard_normal(60)
        train, validation, test = (
            {"x": part * (np.inf if self.diverges else 1.0), "sleep_s": np.full(len(part), self.train_sleep_s)}
            for part in np.split(x, [40, 50])
        )
        return Splits("fake", train, validation, test)

    def recipe(self, model: str, preset: Preset) -> Recipe:
        """Three epochs of ten steps."""
        del model, preset
        return Recipe(Optimizer("sgd", 0.1), batch_size=4, epochs=3)

    def model_options(self, model: str) -> Mapping[str, object]:
        """None."""
        del model
        return {}

    def weights(self, model: str, seed: int) -> Weights:
        """A rate drawn from the seed."""
        del model
        return {"rate": np.asarray(np.random.default_rng(seed).uniform(0.1, 1.0))}

    def problem(self, model: str, seed: int, batch_size: int) -> GradientInputs:
        """Numbers, the first three of which grow for one unit of time."""
        weights = self.weights(model, seed)
        drawn = np.arange(1.0, batch_size + 1.0)

        def closed_form() -> Gradients:
            growth, x = np.exp(weights["rate"]), drawn[:3]
            return Gradients(growth * x.sum(), growth * np.ones(3), {"rate": growth * x.sum()})

        return GradientInputs(weights, {"x": drawn}, closed_form, dataset="fake")


def planted(inner: GradientStep, slowdown: float, leak_bytes: int, *, wrong: bool) -> GradientStep:
    """A gradient step with a fault planted into it.

    Args:
        inner: The step as it is.
        slowdown: How much longer it takes: 0.1 is a tenth. It is spent at work, not asleep.
        leak_bytes: What each step keeps alive for ever.
        wrong: Whether its gradients have the wrong sign.
    """
    leaked: list[bytearray] = []

    def step() -> Gradients:
        began = time.perf_counter()
        gradients = inner.step()
        until = began + (1 + slowdown) * (time.perf_counter() - began)
        while time.perf_counter() < until:
            pass
        if leak_bytes:
            leaked.append(bytearray(leak_bytes))
        return turned(gradients)

    def turned(gradients: Gradients) -> Gradients:
        if not wrong:
            return gradients
        y0 = tuple(-part for part in gradients.y0) if isinstance(gradients.y0, tuple) else -gradients.y0
        return replace(gradients, y0=y0, params={name: -value for name, value in gradients.params.items()})

    return replace(inner, step=step, backward=lambda state: turned(inner.backward(state)))


@dataclass(frozen=True)
class Planted(FakeBackend):
    """A `FakeBackend` with a fault that a benchmark must find.

    Attributes:
        slowdown: How much longer a step takes: 0.1 is a tenth.
        leak_mib: What each step keeps alive, in MiB.
        wrong: Whether its gradients have the wrong sign.
    """

    framework: ClassVar[str] = "nodebench.testing:FakeFramework"
    work: int = 200
    slowdown: float = 0.0
    leak_mib: int = 0
    wrong: bool = False

    def gradient_step(self, problem: Problem, spec: SolverSpec, framework: AbstractFramework) -> GradientStep:
        """The step with its fault."""
        inner = super().gradient_step(problem, spec, framework)
        return planted(inner, self.slowdown, self.leak_mib * 2**20, wrong=self.wrong)


@dataclass(frozen=True)
class PlantedTorch(AbstractBackend):
    """`direct` with a fault that a benchmark must find; options as those of `Planted`."""

    framework: ClassVar[str] = "torch"
    exact_counterpart = "direct"
    slowdown: float = 0.0
    leak_mib: int = 0
    wrong: bool = False

    @property
    def _direct(self) -> AbstractBackend:
        direct: AbstractBackend = registry.load("backend", "direct", AbstractBackend)
        return direct

    def unsupported(self, problem: Problem, spec: SolverSpec) -> str | None:
        """What `direct` says."""
        return self._direct.unsupported(problem, spec)

    def solve(self, field: Field, y0: State, times: Array, spec: SolverSpec) -> State:
        """The solution by `direct`."""
        return self._direct.solve(field, y0, times, spec)

    def grid(self, field: Field, y0: State, times: Array, spec: SolverSpec) -> StepGrid | None:
        """The steps of `direct`."""
        return self._direct.grid(field, y0, times, spec)

    def gradient_step(self, problem: Problem, spec: SolverSpec, framework: AbstractFramework) -> GradientStep:
        """The step of `direct` with its fault."""
        inner = self._direct.gradient_step(problem, spec, framework)
        return planted(inner, self.slowdown, self.leak_mib * 2**20, wrong=self.wrong)
