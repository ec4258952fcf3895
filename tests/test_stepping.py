"""The stepper, the first step, the recomputation schedule: our own solver in parts."""

from math import comb, cos, exp, log2, sin

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nodebench.backends.runge_kutta.discrete_adjoint import backwards
from nodebench.backends.runge_kutta.solve import SolveSetup, reason_unsupported, solve_plain, step_grid
from nodebench.backends.runge_kutta.steps import Scheme
from nodebench.backends.solvers import TABLEAUS, tableau
from nodebench.backends.step_size import CONTROLLERS, StepController, StepScale, first_step
from nodebench.errors import DivergedError, StepLimitError, UserError
from nodebench.frameworks.torch.field import layout
from nodebench.problem import SolverSpec

FIXED = sorted(name for name, method in TABLEAUS.items() if not method.adaptive)
ADAPTIVE = sorted(name for name, method in TABLEAUS.items() if method.adaptive)


def _spec(**changes):
    return SolverSpec(**{"rtol": 1e-6, "atol": 1e-6, "first_step": 0.1, "dtype": "float64", **changes})


def _times(*values):
    return torch.tensor(values, dtype=torch.float64)


def _job(field, y0, spec, *, land=True):
    return SolveSetup(field=field, layout=layout(y0), spec=spec, land=land)


def _solve(field, y0, times, spec, *, land=True):
    return solve_plain(_job(field, y0, spec, land=land), y0, times)


def _grid(field, y0, times, spec, *, land=True):
    return step_grid(_job(field, y0, spec, land=land), y0, times)


def _logistic(t, y):
    del t
    return y * (1 - y)


Y0 = torch.tensor([0.1, 0.5], dtype=torch.float64)


def _exact(t):
    return 1 / (1 + (1 / Y0 - 1) * exp(-t))


@pytest.mark.parametrize("name", FIXED)
def test_a_fixed_method_converges_with_its_order(name):
    """Halving the step divides the error by two to the order."""
    errors = [
        (_solve(_logistic, Y0, _times(0, 2), _spec(solver=name, first_step=h))[-1] - _exact(2)).abs().max().item()
        for h in (0.1, 0.05)
    ]
    assert log2(errors[0] / errors[1]) == pytest.approx(TABLEAUS[name].order, abs=0.35)


def _error_of_equal_steps(name, end, n):
    """Error at the end of dy/dt = y cos(t), y = exp(sin(t))."""
    y = torch.ones(1, dtype=torch.float64)
    scheme = Scheme(tableau(name), y)

    def evaluate(stage, t, y):
        scheme.rows[stage] = y * cos(t)

    for i in range(n):
        y = scheme.stages(evaluate, y, (end * i / n, end * (i + 1) / n), first_known=False)
    return abs(y.item() - exp(sin(end)))


@pytest.mark.parametrize("name", ADAPTIVE)
def test_an_adaptive_method_converges_with_its_order_in_equal_steps(name):
    """Halving the step divides the error by two to the order, where nothing chooses the steps."""
    end, n = (2, 6) if name == "dopri8" else (3, 24)  # more steps of dopri8 would come to the limit of rounding
    errors = [_error_of_equal_steps(name, end, steps) for steps in (n, 2 * n)]
    assert log2(errors[0] / errors[1]) == pytest.approx(TABLEAUS[name].order, abs=0.2)


@pytest.mark.parametrize("controller", sorted(CONTROLLERS))
@pytest.mark.parametrize("name", ADAPTIVE)
def test_an_adaptive_method_keeps_its_tolerance(name, controller):
    """The error falls with the tolerance and stays within a small multiple of it."""
    tightest = 1e-7 if name == "heun" else 1e-10  # of order 2 it would take a hundred thousand steps
    for tolerance in (1e-4, 1e-7, tightest):
        spec = _spec(solver=name, controller=controller, rtol=tolerance, atol=tolerance, max_steps=10_000)
        error = (_solve(_logistic, Y0, _times(0, 2), spec)[-1] - _exact(2)).abs().max().item()
        assert error < 5 * tolerance


@pytest.mark.parametrize("name", [*FIXED, *ADAPTIVE])
def test_backwards_in_time_returns_to_the_start(name):
    """Solving to the end and back with decreasing times gives the initial state."""
    step = 0.001 if name in ("euler", "midpoint") else 0.05
    tolerance = 1e-7 if name == "heun" else 1e-9
    spec = _spec(solver=name, first_step=step, max_steps=10_000, rtol=tolerance, atol=tolerance)
    there = _solve(_logistic, Y0, _times(0, 1), spec)[-1]
    back = _solve(_logistic, there, _times(1, 0.5, 0), spec)
    torch.testing.assert_close(back[-1], Y0, rtol=1e-3 if name == "euler" else 1e-5, atol=0)
    assert len(back) == 3


def test_steps_land_exactly_on_every_output_time():
    """Each output time is a boundary of the grid, to the bit."""
    times = _times(0, 0.3, 1 / 3, 2.7)
    grid = _grid(_logistic, Y0, times, _spec())
    assert set(times.tolist()) <= set(grid.times)


def test_a_step_shortened_to_land_does_not_shorten_the_next():
    """An output time just after a boundary costs one more step, not a new approach to the length of steps."""
    plain = _grid(_logistic, Y0, _times(0, 8), _spec(rtol=1e-5, atol=1e-5))
    middle = plain.times[3]
    marked = _grid(_logistic, Y0, _times(0, middle + 1e-9, 8), _spec(rtol=1e-5, atol=1e-5))
    assert marked.n_accepted <= plain.n_accepted + 2


def test_a_fixed_method_takes_equal_steps_in_each_interval():
    """The steps of an interval are equal, and as few as `first_step` allows."""
    grid = _grid(_logistic, Y0, _times(0, 1, 1.05, 2), _spec(solver="rk4", first_step=0.3))
    np.testing.assert_allclose(np.diff(grid.times), [0.25] * 4 + [0.05] + [0.95 / 4] * 4)


def test_a_rejected_step_is_counted_and_mended():
    """A first step far too long is rejected, and the result is within the tolerance all the same."""
    spec = _spec(first_step=5.0)
    grid = _grid(lambda _, y: -20 * y, Y0, _times(0, 5), spec)
    assert grid.n_rejected > 0
    final = _solve(lambda _, y: -20 * y, Y0, _times(0, 5), spec)[-1]
    torch.testing.assert_close(final, Y0 * exp(-100), rtol=0, atol=1e-5)


def test_tuple_and_single_states_take_the_same_steps():
    """A tuple is solved as the flat vector of its parts."""
    whole = _solve(_logistic, Y0, _times(0, 1), _spec())
    parts = _solve(
        lambda t, y: (_logistic(t, y[0]), _logistic(t, y[1])), (Y0[:1], Y0[1:].reshape(1, 1)), _times(0, 1), _spec()
    )
    assert [part.shape for part in parts] == [(2, 1), (2, 1, 1)]
    torch.testing.assert_close(torch.cat([part.reshape(2, 1) for part in parts], dim=1), whole, rtol=0, atol=0)


def test_the_step_limit_names_the_time_reached():
    """Too few steps raise, with the time that was reached and what to raise."""
    with pytest.raises(StepLimitError, match=r"7 steps reached only t = .*max_steps"):
        _solve(_logistic, Y0, _times(0, 100), _spec(max_steps=7, rtol=1e-10, atol=1e-10))


@pytest.mark.parametrize("solver", ["dopri5", "rk4"])
def test_a_state_that_explodes_is_diverged(solver):
    """dy/dt = y^2 leaves the finite numbers at t = 1, and the error names the time."""
    spec = _spec(solver=solver, max_steps=100_000, first_step=0.01)
    y0 = torch.ones(1, dtype=torch.float64)
    with pytest.raises(DivergedError, match="t = "):
        _solve(lambda _, y: y**2, y0, _times(0, 2), spec)


@pytest.mark.parametrize("first", [0.1, None])
def test_a_field_of_nan_is_diverged_at_once(first):
    """NaN from the start raises in the first step, whoever chooses that step."""
    with pytest.raises(DivergedError, match="t = 0"):
        _solve(lambda _, y: y * float("nan"), Y0, _times(0, 2), _spec(first_step=first))


def test_an_overflow_within_a_step_is_mended_by_a_shorter_one():
    """A stage that overflows rejects the step and does not end the solve."""
    y0 = torch.ones(1, dtype=torch.float64)
    final = _solve(lambda _, y: -(y**9), y0, _times(0, 1), _spec(first_step=1000.0, max_steps=1000))[-1]
    assert final.item() == pytest.approx(9 ** (-1 / 8), rel=1e-5)


@pytest.mark.parametrize("times", [[0.0], [0.0, 1.0, 1.0], [0.0, 1.0, 0.5], [0.0, float("nan")], [[0.0, 1.0]]], ids=str)
def test_times_that_are_not_monotone_are_refused(times):
    """Fewer than two times, repeated, turning or non-finite ones are errors."""
    with pytest.raises(UserError, match="times"):
        _solve(_logistic, Y0, torch.tensor(times, dtype=torch.float64), _spec())


def test_a_field_of_the_wrong_shape_is_refused():
    """A derivative that would broadcast is an error."""
    with pytest.raises(UserError, match="shapes of the state"):
        _solve(lambda _, y: y.sum(), Y0, _times(0, 1), _spec())


def test_a_field_that_changes_its_state_is_refused():
    """An in-place first operation would corrupt the solve, and is an error."""
    with pytest.raises(UserError, match="in place"):
        _solve(lambda _, y: y.mul_(2), Y0.clone(), _times(0, 1), _spec())


def test_a_method_without_an_error_estimate_needs_its_step():
    """A fixed method without `first_step` is refused before and at the solve."""
    spec = _spec(solver="rk4", first_step=None)
    assert "first_step" in reason_unsupported(spec)
    with pytest.raises(UserError, match="first_step"):
        _solve(_logistic, Y0, _times(0, 1), spec)


def test_an_unknown_solver_is_unsupported():
    """A solver that is none of ours is a reason, not a crash."""
    assert "dopri6" in reason_unsupported(_spec(solver="dopri6"))


def test_the_integral_controller_looks_at_the_last_error_alone():
    """0.9 times the error to the power -1 / order, whatever the errors before."""
    controller = StepController("integral", 5)
    controller.factor(0.001)
    assert controller.factor(0.3) == 0.9 / 0.3 ** (1 / 5)


def test_the_pi_controller_looks_at_the_last_two_errors():
    """Gustafsson's exponents 0.7 / order and 0.4 / order, the error before the first step counted as 1."""
    controller = StepController("pi", 5)
    assert controller.factor(0.2) == pytest.approx(0.9 * 0.2 ** (-0.7 / 5))
    assert controller.factor(0.1) == pytest.approx(0.9 * 0.1 ** (-0.7 / 5) * 0.2 ** (0.4 / 5))


@pytest.mark.parametrize(
    "passed_over", [{"ratio": 3.0}, {"ratio": float("inf")}, {"ratio": 1e-9, "shortened": True}], ids=str
)
def test_the_pi_controller_remembers_whole_accepted_steps(passed_over):
    """A rejected step, or one cut to end on an output time, leaves its memory as it was."""
    controller = StepController("pi", 5)
    controller.factor(0.2)
    controller.factor(**passed_over)
    assert controller.factor(0.1) == pytest.approx(0.9 * 0.1 ** (-0.7 / 5) * 0.2 ** (0.4 / 5))


def test_an_error_of_zero_lets_the_next_step_be_longer():
    """It counts as 1 when it is the error before."""
    controller = StepController("pi", 5)
    assert controller.factor(0.0) == 10
    assert controller.factor(0.1) == pytest.approx(0.9 * 0.1 ** (-0.7 / 5))


@pytest.mark.parametrize("name", sorted(CONTROLLERS))
@pytest.mark.parametrize(
    ("ratio", "bounds"), [(1e-30, (10, 10)), (1.0, (1, 1)), (1e30, (0.2, 0.2)), (float("nan"), (0.2, 0.2))]
)
def test_a_factor_has_bounds(name, ratio, bounds):
    """Between 0.2 and 10, and at least 1 after an accepted step."""
    assert bounds[0] <= StepController(name, 5).factor(ratio) <= bounds[1]


def test_an_unknown_controller_is_refused():
    """A controller that there is not is an error that names both that there are."""
    with pytest.raises(UserError, match="'integral' or 'pi'"):
        _spec(controller="pid")


@given(rate=st.floats(0.01, 100), end=st.floats(0.1, 50), order=st.sampled_from([1, 3, 5]), back=st.booleans())
def test_the_first_step_suits_the_scale_of_the_problem(rate, end, order, back):
    """It is positive, not longer than the interval, and shrinks with the rate of change."""
    scale = StepScale(order, 1e-6, 1e-6, lambda v: float(np.sqrt(np.mean(v**2))))
    times = (0.0, -end) if back else (0.0, end)
    step = first_step(lambda _, y: rate * y, np.ones(3), times, scale)
    assert 0 < step <= end
    assert step <= 1 / rate


def test_the_first_step_is_hairers():
    """Against the formulas of the book, worked by hand for dy/dt = -y, y = 1."""
    scale = StepScale(5, 1e-3, 1e-3, lambda v: float(np.sqrt(np.mean(v**2))))
    size = 1 / 2e-3  # of y, f and y'' alike
    assert first_step(lambda _, y: -y, np.ones(1), (0.0, 10.0), scale) == pytest.approx((0.01 / size) ** 0.2)


def test_a_state_at_rest_gets_a_step_at_all():
    """A field of zeros divides by nothing."""
    scale = StepScale(5, 1e-3, 1e-3, lambda v: float(np.sqrt(np.mean(v**2))))
    assert 0 < first_step(lambda _, y: 0 * y, np.zeros(2), (0.0, 1.0), scale) <= 1


def _fewest_redone(n_steps, n_kept):
    """The optimum by dynamic programming, independent of the formula."""
    best = {(n, 1): n * (n - 1) // 2 for n in range(1, n_steps + 1)}
    for kept in range(2, n_kept + 1):
        for n in range(1, n_steps + 1):
            best[n, kept] = min((m + best[m, kept] + best[n - m, kept - 1] for m in range(1, n)), default=0)
    return best[n_steps, n_kept]


@settings(deadline=None)
@given(n_steps=st.integers(1, 40), n_kept=st.integers(1, 8))
def test_the_schedule_redoes_the_fewest_steps_possible(n_steps, n_kept):
    """Every state is handed out once, last first, right, and at the least cost."""
    redone = []

    def advance(i, y):
        redone.append(i)
        assert i == y
        return y + 1

    assert list(backwards(n_steps, n_kept, 0, advance)) == [(i, i) for i in reversed(range(n_steps))]
    assert len(redone) == _fewest_redone(n_steps, n_kept)


def test_a_long_schedule_neither_recurses_deeply_nor_repeats_much():
    """Ten thousand steps from 140 states are redone at most twice each, as the binomial bound says."""
    redone = 0

    def advance(_, y):
        nonlocal redone
        redone += 1
        return y + 1

    for i, y in backwards(10_000, 140, 0, advance):
        assert i == y
    assert comb(142, 140) >= 10_000
    assert redone <= 2 * 10_000
