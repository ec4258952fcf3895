"""Exponents are found where they were planted, and theory's are those of the textbook."""

from dataclasses import replace

import numpy as np
import pytest

from nodebench import api, registry
from nodebench.backends.base import AbstractBackend
from nodebench.bench.matrix import VALUES, Request, scaling_plan
from nodebench.errors import UserError
from nodebench.problem import SolverSpec
from nodebench.reports.axes import along_axes
from nodebench.reports.comparison import Machines
from nodebench.results.record import Record
from nodebench.results.scaling import limits, scalings, theory, without_varied
from nodebench.stats import fit_power_law

X = np.array([10.0, 20.0, 40.0, 80.0, 160.0])


def record(n, backend="direct", **fields):
    """A record of a cell that took n steps."""
    common = {"run_id": "r", "created_at": "now", "nodebench_version": "0", "task": "t", "model": "m", "seed": 0}
    common |= {"dtype": "float32", "device": "cpu", "threads": 1, "preset": "smoke", "status": "ok", "solver": "dopri5"}
    return Record(**{**common, "cell_id": f"{backend} {n}", "backend": backend, "n_accepted": n, **fields})


@pytest.mark.parametrize("exponent", [-0.2, 0.0, 0.5, 1.0])
def test_a_planted_exponent_is_found(exponent):
    """Without noise it is exact and its interval a point, whatever the factor."""
    law = fit_power_law(X, 7.0 * X**exponent)
    assert law.exponent == pytest.approx(exponent, abs=1e-12)
    assert law.high - law.low == pytest.approx(0, abs=1e-9)
    assert law.n_points == 5


def test_the_interval_covers_the_truth_as_often_as_it_says():
    """Over 1000 seeds of multiplicative noise, in 92 to 98 % of them."""
    rng = np.random.default_rng(0)
    laws = [fit_power_law(X, X**0.5 * np.exp(0.1 * rng.standard_normal(5))) for _ in range(1000)]
    assert 0.92 <= np.mean([law.low <= 0.5 <= law.high for law in laws]) <= 0.98


def test_no_law_without_three_places():
    """Two places, or a figure that is not positive, give none."""
    assert fit_power_law([1.0, 1.0, 2.0], [1.0, 1.0, 2.0]) is None
    assert fit_power_law([1.0, 2.0, 3.0], [0.0, 1.0, 2.0]) is None


def test_theory():
    """Memory by the method's law, evaluations and time with the steps, and those with the tolerance's fifth root."""
    direct, diffrax, mute = (record(1, memory_exponent=p) for p in (1.0, 0.5, None))
    assert [theory("steps", quantity, diffrax) for quantity in ("memory", "saved", "nfe", "time")] == [0.5, 0.5, 1, 1]
    assert theory("tolerance", "memory", direct) == pytest.approx(-0.2)
    assert theory("tolerance", "memory", record(1, memory_exponent=1.0, solver="bosh3")) == pytest.approx(-1 / 3)
    multistep = record(1, memory_exponent=0.0, solver="lsoda")
    assert [theory("tolerance", quantity, multistep) for quantity in ("memory", "nfe")] == [0.0, None]
    assert [theory("batch", quantity, mute) for quantity in ("memory", "nfe", "time")] == [1.0, 0.0, 1.0]
    assert theory("horizon", "memory", mute) is None


def test_times_of_other_machines_are_left_out_of_a_law():
    """Of four places three are of one machine: the law of time is theirs, that of evaluations of all."""
    line = [record(n, nfe_forward=6 * n, step_s=0.1 * n, environment="one") for n in (10, 20, 40)]
    line.append(record(80, nfe_forward=480, step_s=99.0, environment="two"))
    environments = {name: {"cpu": name} for name in ("one", "two")}
    of_one = Machines.of(line, environments).with_times_of_one(line)
    found = {scaling.quantity: scaling for scaling in scalings(of_one, "steps")}
    assert (found["nfe"].law.n_points, found["time"].law.n_points) == (4, 3)
    assert found["time"].law.exponent == pytest.approx(1.0)
    of_other = Machines.of(line, environments, "two").with_times_of_one(line)
    (time,) = (scaling for scaling in scalings(of_other, "steps") if scaling.quantity == "time")
    assert time.reason == "1 of 4 points have this figure, fewer than 3 differ"


def test_failed_cells_are_left_out_and_missing_figures_have_a_reason():
    """A law comes from what was measured; where too little was, the table says so."""
    figures = {"memory_exponent": 1.0, "peak_memory_bytes": 100, "nfe_forward": 6, "nfe_backward": 0}
    line = [record(n, **{**figures, "nfe_forward": 6 * n}) for n in (10, 20, 40)]
    line.append(record(80, **figures, status="oom"))
    found = {scaling.quantity: scaling for scaling in scalings(line, "steps")}
    assert found["nfe"].law.exponent == pytest.approx(1.0)
    assert found["nfe"].law.n_points == 3
    assert found["memory"].theory == 1.0
    assert found["time"].law is None
    assert found["time"].reason.startswith("0 of 4 points")


def test_every_axis_changes_what_it_names():
    """Steps, tolerance, batch and time span, each in cells that are otherwise alike."""
    request = Request(backends=("direct", "adjoint"), tasks=("linear",))
    assert [cell.spec.n_steps for cell in scaling_plan(request, "steps", ()).cells[::2]] == list(VALUES["steps"])
    assert {cell.spec.solver for cell in scaling_plan(request, "steps", ()).cells} == {"rk4"}
    assert [cell.spec.rtol for cell in scaling_plan(request, "tolerance", ()).cells[::2]] == list(VALUES["tolerance"])
    assert [cell.batch_size for cell in scaling_plan(request, "batch", (4, 8, 16)).cells[::2]] == [4, 8, 16]
    horizons = scaling_plan(replace(request, tasks=("spiral",)), "horizon", ())
    assert [cell.horizon for cell in horizons.cells[::2]] == list(VALUES["horizon"])
    assert len(horizons.groups) == len(VALUES["horizon"])


def test_an_axis_of_tasks_varies_the_option_that_the_task_names():
    """Values are those of the option, of the time span factors; a task that names none is told of, but for the span."""
    request = Request(backends=("direct",), tasks=("contracting[end=2]",))
    stiff = scaling_plan(request, "stiffness", (1, 2, 30)).cells
    assert [cell.task for cell in stiff] == [
        "contracting[end=2,rate=1]", "contracting[end=2]", "contracting[end=2,rate=30]"
    ]  # fmt: skip
    spans = scaling_plan(request, "horizon", (0.5, 1, 4)).cells
    assert [cell.task for cell in spans] == ["contracting", "contracting[end=2]", "contracting[end=8]"]
    assert {cell.horizon for cell in spans} == {1.0}
    many = scaling_plan(Request(backends=("direct",), tasks=("brusselator",)), "parameters", (2, 3, 5)).cells
    assert [cell.task for cell in many] == ["brusselator[n=2]", "brusselator[n=3]", "brusselator[n=5]"]
    with pytest.raises(UserError, match="nothing is known to vary the stiffness of task `spiral`"):
        scaling_plan(Request(backends=("direct",), tasks=("spiral",)), "stiffness", ())


def test_tasks_of_a_line_are_called_without_what_varies():
    """Three that differ in one option are one line; two are not, nor are others of their kind."""
    assert without_varied(["a[x=1,y=2]", "a[x=2,y=2]", "a[y=2]", "a[x=3]", "b[x=1]", "b"], "stiffness") == {
        "a[x=1,y=2]": "a[y=2]", "a[x=2,y=2]": "a[y=2]", "a[y=2]": "a[y=2]", "a[x=3]": "a[x=3]", "b[x=1]": "b[x=1]",
        "b": "b",
    }  # fmt: skip


def test_of_a_task_of_ours_its_own_option_varies():
    """Whatever else differs: a store may hold a scaling over the rate and one over the end."""
    tasks = [
        *(f"contracting[rate={n}]" for n in (1, 3, 9)),
        *(f"contracting[end={n}]" for n in (2, 4, 8)),
        "contracting",
    ]
    assert set(without_varied(tasks, "stiffness").values()) == {"contracting", *tasks[3:6]}
    assert set(without_varied(tasks, "horizon").values()) == {"contracting", *tasks[:3]}
    assert without_varied(["lorenz[horizon=4]"], "stiffness") == {"lorenz[horizon=4]": "lorenz[horizon=4]"}


def stiff(rate, status="ok", **figures):
    """A record of a system of this stiffness."""
    common = {"stiffness": -rate, "n_params": 2, "nfe_forward": int(10 * rate), "reference_error_params": 0.0}
    return record(
        1, "adjoint", **{**common, "task": f"c[rate={rate:g}]", "status": status, "cell_id": f"{rate}", **figures}
    )


def test_a_line_ends_where_its_gradient_is_wrong():
    """What comes right again behind it is no part of any law, and a page says from which place on it is wrong."""
    line = [
        stiff(1.0),
        stiff(100.0),
        stiff(3.0),
        stiff(10.0),
        stiff(30.0, "wrong_gradient", reason="It is 7.", nfe_forward=9),
    ]
    (limit,) = limits(line, "stiffness")
    assert (limit.task, limit.right, limit.wrong, limit.status) == ("c/m", 10.0, 30.0, "wrong_gradient")
    assert (
        limit.text == "`adjoint` with dopri5 on `c/m`: wrong_gradient from λT = -30 on, right up to λT = -10. It is 7."
    )
    (nfe,) = (scaling for scaling in scalings(line, "stiffness") if scaling.quantity == "nfe")
    assert (nfe.law.n_points, nfe.law.exponent, nfe.theory) == (3, pytest.approx(1.0), 1.0)
    assert nfe.law.coefficient == pytest.approx(10.0)
    (whole,) = limits(line[:1] + line[2:4], "stiffness")
    assert whole.text == "`adjoint` with dopri5 on `c/m`: right up to λT = -10, the last that was measured."
    assert limits(line[:2], "stiffness") == []


def test_beyond_what_a_reference_knows_no_gradient_is_called_right():
    """It ended well there, but two solves of the reference differ; one that is too exact to be stated is right."""
    line = [stiff(1.0), stiff(2.0, grad_error_params=None), stiff(4.0, reference_error_params=0.3)]
    (limit,) = limits(line, "stiffness")
    assert (limit.right, limit.wrong, limit.status) == (2.0, 4.0, "unknown")
    assert "no gradient means anything" in limit.reason


def test_a_report_ends_lines_there_too():
    """A table of limits, and error and evaluations over the stiffness up to them; nothing where none was gone along."""
    line = [stiff(rate, grad_error_params=1e-6 * rate) for rate in (1.0, 3.0, 10.0, 100.0)]
    line[3] = replace(line[3], status="diverged", reason="It underflows.")
    table, error, nfe = along_axes(line)
    assert [entry.text for entry in table.rows[0]][2:6] == ["10", "100", "diverged", "It underflows."]
    for chart, exponent in ((error, None), (nfe, "`adjoint` 1 (1..1)")):
        assert [row["x"] for row in chart.definition.data.values] == [1.0, 3.0, 10.0]
        assert (exponent is None) or exponent in chart.caption
    assert along_axes(line[:2]) == []


@pytest.mark.worker
def test_a_run_knows_stiffness_time_span_and_lengths(tmp_path):
    """Of a system, whose gradient by an exact method is as long as the reference's, and points where it does."""
    (record,) = api.run(
        backends="direct", tasks="contracting[rate=10]", measure="untimed", store=tmp_path / "s.db", preset="smoke"
    )
    assert (record.time_span, record.n_params) == (1.0, 2)
    assert record.stiffness == pytest.approx(-10, rel=0.1)
    assert 0 < record.sensitivity_smallest <= record.sensitivity_largest < 1e-3
    for figure in (record.grad_norm_ratio_params, record.grad_norm_ratio_y0, record.grad_cosine_y0):
        assert figure == pytest.approx(1.0, abs=1e-3)
    assert min(record.grad_norm_params, record.grad_norm_y0) > 0


def test_lines_are_of_like_settings_and_of_what_has_a_place():
    """Two types or seeds are two lines; what failed before its stiffness was known is in none; counts judge nothing."""
    wrong = [stiff(rate, "wrong_gradient", dtype="float16") for rate in (1.0, 3.0, 10.0)]
    line = [stiff(rate, grad_error_params=1e-6) for rate in (1.0, 3.0, 10.0)]
    found = limits([*wrong, *line, stiff(30.0, "failed", stiffness=None)], "stiffness")
    assert [(limit.right, limit.wrong) for limit in found] == [(None, 1.0), (10.0, None)]
    (nfe,) = (
        each for each in scalings([*line, stiff(3.0, "failed", stiffness=None)], "stiffness") if each.quantity == "nfe"
    )
    assert nfe.law.n_points == 3
    assert limits([replace(each, reference_error_params=None) for each in line], "stiffness") == []
    (unjudged,) = limits([replace(r, reference_error_params=None, grad_norm_y0=1.0) for r in line], "stiffness")
    assert (unjudged.right, unjudged.status, unjudged.reason) == (
        None,
        "unknown",
        "There is no reference to judge it by.",
    )


def test_theory_of_stiffness_and_parameters():
    """An explicit solver takes steps in proportion to it, an implicit one as many as before."""
    explicit, implicit = record(1, memory_exponent=1.0), record(1, memory_exponent=1.0, solver="kvaerno5")
    assert [theory("stiffness", quantity, explicit) for quantity in ("memory", "nfe", "time")] == [1.0, 1.0, 1.0]
    assert [theory("stiffness", quantity, implicit) for quantity in ("memory", "nfe", "time")] == [0.0, 0.0, 0.0]
    assert theory("stiffness", "nfe", record(1, solver="rk4")) == 0.0
    assert [theory("parameters", quantity, explicit) for quantity in ("nfe", "time")] == [0.0, None]
    assert theory("steps", "error", record(1, solver="rk4")) == -4.0


@pytest.mark.parametrize(
    ("axis", "values", "message"),
    [
        ("stpes", (), "steps"),
        ("steps", (10, 20), "at least 3"),
        ("steps", (10, 20, 30.5), "positive whole"),
        ("batch", (0, 1, 2), "positive whole"),
        ("tolerance", (1e-3, 1e-4, float("nan")), "positive"),
        ("parameters", (2, 3, 4.5), "positive whole"),
    ],
)
def test_bad_axes_are_refused(axis, values, message):
    """Before anything is measured."""
    with pytest.raises(UserError, match=message):
        scaling_plan(Request(backends=("direct",), tasks=("linear",)), axis, values)


@pytest.mark.parametrize(
    ("axis", "chosen"),
    [("tolerance", {"rtols": (1e-3,)}), ("batch", {"batch_size": 4}), ("steps", {"first_step": 0.1})],
)
def test_what_an_axis_sets_is_not_chosen(axis, chosen):
    """It would be a choice without effect."""
    with pytest.raises(UserError, match=f"`--over {axis}` sets"):
        scaling_plan(Request(backends=("direct",), tasks=("linear",), **chosen), axis, ())


@pytest.mark.parametrize("solver", ["dopri5", "lsoda", "vode-adams"])
def test_steps_need_a_solver_of_fixed_steps(solver):
    """An adaptive one chooses its own number."""
    with pytest.raises(UserError, match=f"{solver} chooses its own"):
        scaling_plan(Request(backends=("direct",), tasks=("linear",), solvers=(solver,)), "steps", ())


def test_backends_state_their_law_and_their_nature():
    """Each installed backend of ours has an exponent of memory; what it says of itself are sentences."""
    for name in registry.working("backend"):
        backend = registry.load("backend", name, AbstractBackend)
        assert backend.memory_exponent in (0.0, 0.5, 1.0)
        assert all(sentence.endswith(".") for sentence in backend.differences(SolverSpec(first_step=0.1)))


def test_the_number_of_checkpoints_is_diffraxs():
    """What is said of diffrax's checkpoints is what Equinox's loop really takes."""
    pytest.importorskip("diffrax")
    from nodebench.backends.diffrax.solve import default_checkpoints

    for limit in range(2, 300):
        least = next(k for k in range(1, 300) if 2 * limit < (k + 1) * (k + 2))
        assert default_checkpoints(limit) == least
