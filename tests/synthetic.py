"""Records and runs made by hand, of which every figure is known."""

from math import exp

from nodebench.results.machine import environment_key
from nodebench.results.record import Record
from nodebench.results.store import Run
from nodebench.stats import student

ENVIRONMENT = {
    "cpu": "abacus",
    "cores": 2,
    "memory_bytes": 2**34,
    "gpu": None,
    "system": "Linux",
    "python": "3.11",
    "libraries": {"numpy": "2.0", "torch": None},
    "git": {"commit": "0123456789abcdef", "dirty": False},
}

OTHER = ENVIRONMENT | {"cpu": "slide rule"}

ENVIRONMENTS = {environment_key(each): each for each in (ENVIRONMENT, OTHER)}

HERE, THERE = ENVIRONMENTS

ALIKE = {"node": "node-2"}
"""Fields of a record of another node of the same machine and software."""

ELSEWHERE = {"node": "node-3", "environment": THERE}
"""Fields of a record of another node that is unlike."""

COMMON = {
    "run_id": "run-1",
    "created_at": "2026-01-02T03:04:05.000+00:00",
    "nodebench_version": "0.1.0",
    "task": "cnf",
    "model": "cnf",
    "dataset": "moons",
    "framework": "torch",
    "solver": "dopri5",
    "controller": "integral",
    "rtol": 1e-5,
    "atol": 1e-5,
    "first_step": 0.05,
    "max_steps": 1000,
    "dtype": "float32",
    "device": "cpu",
    "threads": 1,
    "batch_size": 64,
    "seed": 0,
    "preset": "smoke",
    "node": "node-1",
    "environment": HERE,
    "status": "ok",
}


def record(backend, **fields):
    """A record of a cell; its id follows from its settings, as that of a real one does."""
    settings = {**COMMON, "backend": backend, **fields}
    names = (
        "task",
        "model",
        "backend",
        "solver",
        "rtol",
        "dtype",
        "device",
        "batch_size",
        "seed",
        "preset",
        "controller",
        "threads",
        "max_steps",
        "framework",
        "horizon",
    )
    cell_id = "/".join(str(settings.get(name)) for name in names)
    return Record(**{"cell_id": f"{cell_id}/{fields.get('first_step')}", **settings})


def early(backend, status="unsupported", **fields):
    """A record of a cell that ended before it was prepared: it knows neither its data set nor its first step."""
    return record(backend, **{"status": status, "reason": "it cannot.", "dataset": None, "first_step": None, **fields})


def timed(backend, ratio=None, half=0.02, control="direct", **fields):
    """A record of a measured gradient step: 10 ms times the ratio to the control, which has none; an error by rtol."""
    figures = {
        "first_step_s": 1.0,
        "n_params": 100,
        "nfe_forward": 20,
        "nfe_backward": 20,
        "n_vjps": 20,
        "n_accepted": 3,
    }
    error = 10 * (fields.get("rtol", COMMON["rtol"]) or COMMON["rtol"])
    figures |= {"grad_error_params": error, "grad_error_y0": 1e-5, "peak_memory_bytes": 2**20}
    step_s = 0.01 * (1 if ratio is None else ratio)
    figures |= {"step_s": step_s, "step_s_low": 0.9 * step_s, "step_s_high": 1.1 * step_s}
    if ratio is not None:
        low, high = ratio - half, ratio + half
        verdict = "undecided" if low <= 1 <= high else "slower" if ratio > 1 else "faster"
        figures |= {"ratio": ratio, "ratio_low": low, "ratio_high": high, "control": control, "verdict": verdict}
    return record(backend, **{**figures, **fields})


RTOLS = (1e-3, 1e-5, 1e-7)
"""Tolerances of the points of a curve."""

N_STARTS = 5
"""Starts of each."""


def interval(name, value, error, n=N_STARTS):
    """A figure with the ends of its interval, by the names that a record has."""
    half = student(n - 1) * error
    return {name: value, f"{name}_low": value * exp(-half), f"{name}_high": value * exp(half)}


def curve(backend, factor, ratio=None, drift=(1.0, 1.0, 1.0), error=0.01, **fields):
    """Records of a law: the error is `factor` times the tolerance, time, memory and evaluations are error^-1/5.

    `ratio` relates it to the control `direct`, of factor 1 and the same power; `drift` slows all of one tolerance down.
    """
    made = []
    for rtol, slow in zip(RTOLS, drift, strict=True):
        reached = factor * rtol
        cost = reached**-0.2 * (1 if ratio is None else ratio)
        figures = interval("step_s", 0.001 * cost * slow, error)
        if ratio is not None:
            figures |= interval("ratio", cost / rtol**-0.2, error) | {"control": "direct", "verdict": "slower"}
        figures |= {"nfe_forward": round(1e6 * cost), "nfe_backward": 0, "peak_memory_bytes": round(2**20 * cost)}
        figures |= {"n_starts": N_STARTS, "dtype": "float64"}
        made.append(timed(backend, rtol=rtol, atol=rtol, grad_error_params=reached, **{**figures, **fields}))
    return made


def trained(model, value, backend=None, **fields):
    """A record of a trained model, of two epochs."""
    history = [
        {"epoch": n, "train_loss": 4.0 / n, "validation": value + 1 / n, "nfe_forward": nfe, "nfe_backward": nfe,
         "train_s": 10.0 * n}
        for n in (1, 2)
        for nfe in (20 + n if backend else None,)
    ]  # fmt: skip
    figures = {"metric_name": "NLL", "metric_unit": "nats", "metric_direction": "lower", "metric_value": value}
    figures |= {"train_s": 20.0, "train_steps": 100, "epochs": 2, "history": history}
    solver = {} if backend else {"solver": None, "rtol": None, "atol": None, "first_step": None, "max_steps": None}
    return record(backend, **{"model": model, **figures, **solver, **fields})


def tracked(*errors, reason=None):
    """Moments of a training, one at each epoch from the initial weights on; where there is no error there is a reason.

    Args:
        *errors: Relative errors of d/dparams; None for a moment without figures.
        reason: Why there are none.
    """
    return [
        {"epoch": epoch, "grad_error_params": error, "grad_error_y0": error, "grad_cosine_params": known and 0.5,
         "reference_error_params": known and 1e-9, "reference_error_y0": known and 1e-9, "nfe_forward": known and 20,
         "nfe_backward": known and 21, "reason": None if known else reason}
        for epoch, error in enumerate(errors)
        for known in (None if error is None else 1,)
    ]  # fmt: skip


def run(run_id="run-1", **environment):
    """A finished run on a machine."""
    return Run(
        run_id=run_id,
        created_at="2026-01-02T03:00:00.000+00:00",
        finished_at="2026-01-02T04:00:00.000+00:00",
        command="nodebench run -b all -t all",
        plan="plan",
        environment=ENVIRONMENT | environment,
        n_cells=4,
        n_records=4,
    )
