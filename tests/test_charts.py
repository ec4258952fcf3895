"""Charts show what was measured, and say why they do not."""

import re

import pytest
from synthetic import ALIKE, ELSEWHERE, ENVIRONMENTS, record, timed, trained
from synthetic import tracked as moments

from nodebench.reports.answers import answer
from nodebench.reports.charts import MAX_CHARTS, backward_evaluations, courses, growth, tracked, work_precision
from nodebench.reports.comparison import Machines, comparisons
from nodebench.reports.document import Chart, Missing
from nodebench.reports.glance import Box, picture, placed, short_labels
from nodebench.reports.series import BACKENDS, MAX_SERIES, style


def of_one_machine(records):
    """Records with the times of the machine that has most."""
    return Machines.of(records, ENVIRONMENTS).with_times_of_one(records)


def steps(backend, n, **fields):
    """A cell with `n` accepted steps whose memory and time go with their number."""
    figures = {"peak_memory_bytes": 2**20 * n, "step_s": 0.01 * n, "step_s_low": 0.009 * n, "step_s_high": 0.011 * n}
    return timed(backend, n_accepted=n, rtol=10.0**-n, **figures, **fields)


def rows(chart):
    """The points of a chart."""
    definition = chart.definition.to_dict()
    data = definition["data"]
    return definition["datasets"][data["name"]] if "name" in data else data["values"]


def series(chart):
    return {row["series"] for row in rows(chart)}


def test_a_diagram_of_error_against_time_has_a_line_for_each_backend():
    """Points are at the figures of the records, in the units of the axes, with their intervals."""
    cells = [timed(name, rtol=rtol, grad_error_params=rtol) for name in ("direct", "adjoint") for rtol in (1e-3, 1e-5)]
    time, nfe, memory = work_precision([*cells, timed("direct", rtol=1e-4, status="wrong_gradient")])
    assert (time.name, nfe.name, memory.name) == (
        "cnf-gradient-error-against-time",
        "cnf-gradient-error-against-NFE",
        "cnf-gradient-error-against-memory",
    )
    found = [(row["series"], row["x"], row["x_low"], row["y"]) for row in rows(time)]
    assert found == [(each.backend, 10.0, 9.0, each.rtol) for each in cells]
    assert {row["x"] for row in rows(nfe)} == {40}
    assert {row["x"] for row in rows(memory)} == {1.0}


def test_a_single_tolerance_makes_no_diagram():
    """It leaves a hole that says what to run."""
    holes = work_precision([timed("direct"), timed("adjoint", 1.5)])
    assert [type(hole) for hole in holes] == [Missing] * 3
    assert "--rtol 1e-3,1e-5,1e-7" in holes[0].reason


def test_times_of_another_machine_are_left_out():
    """Those of the machine with most records are drawn; memory is drawn of both."""
    cells = [timed("direct", rtol=rtol) for rtol in (1e-3, 1e-5)]
    other = timed("adjoint", **ELSEWHERE)
    time, _, memory = work_precision(of_one_machine([*cells, other]))
    assert series(time) == {"direct"}
    assert series(memory) == {"direct", "adjoint"}


def test_times_of_nodes_alike_are_drawn_together():
    """Two nodes of the same machine and software share a chart."""
    cells = [timed("direct", rtol=1e-3), timed("direct", rtol=1e-5, **ALIKE)]
    time, *_ = work_precision(of_one_machine(cells))
    assert len(rows(time)) == 2


def test_a_device_of_another_machine_has_its_own_report():
    """Its times stand in no chart beside those of the chosen machine; another choice shows them, its memory both."""
    cpu = [timed("direct", rtol=rtol) for rtol in (1e-3, 1e-5, 1e-7)]
    cuda = [timed("direct", rtol=rtol, device="cuda", **ELSEWHERE) for rtol in (1e-3, 1e-5)]
    for name, device, n in (("node-1", "cpu", 3), ("node-3", "cuda", 2)):
        shown = work_precision(Machines.of([*cpu, *cuda], ENVIRONMENTS, name).with_times_of_one([*cpu, *cuda]))
        charts = [each for each in shown if isinstance(each, Chart)]
        assert [len(rows(chart)) for chart in charts if "time" in chart.name] == [n]
        assert [len(rows(chart)) for chart in charts if "memory" in chart.name] == [3, 2]
        assert f"float32 on {device}" in charts[0].caption


def test_the_exponent_of_memory_is_in_the_caption():
    """Memory that goes with the steps has an exponent of 1; two points have none."""
    cells = [*(steps("direct", n) for n in (2, 4, 8)), *(steps("adjoint", n) for n in (2, 4))]
    memory, time = growth(cells)
    assert "`direct` 1 (1..1)" in memory.caption
    assert "`adjoint` fewer than 3 points" in memory.caption
    assert "ms" in str(time.definition.to_dict())


def test_backward_evaluations_are_drawn_beside_guides():
    """A method that has none is named in the caption instead, as a logarithmic axis has no zero."""
    cells = [timed("adjoint", nfe_forward=2 * n, nfe_backward=n) for n in (11, 12)]
    (chart,) = backward_evaluations([*cells, timed("direct", nfe_backward=0)])
    assert [(row["x"], row["y"]) for row in rows(chart)] == [(22, 11), (24, 12)]
    assert "Without evaluations in the backward pass: `direct`." in chart.caption
    (hole,) = backward_evaluations([timed("direct", nfe_backward=0)])
    assert isinstance(hole, Missing)


def test_a_chart_of_a_single_place_is_left_out():
    """Evaluations of one method, or tolerances that change nothing, are told by their table."""
    (hole,) = backward_evaluations([timed("adjoint"), timed("symplectic"), timed("direct", nfe_backward=0)])
    assert isinstance(hole, Missing)
    assert "take the same number, and the table has the others. Without" in hole.reason
    same = [timed("direct", rtol=rtol, grad_error_params=1e-4) for rtol in (1e-3, 1e-5)]
    assert [type(each) for each in work_precision(same)] == [Missing] * 3


def test_no_chart_has_more_series_than_can_be_told_apart():
    """Further ones are in a chart of their own, and further settings in none."""
    many = [timed(f"direct[c={n}]", rtol=rtol) for n in range(MAX_SERIES + 1) for rtol in (1e-3, 1e-5)]
    charts = [chart for chart in work_precision(many) if "time" in chart.name]
    assert [len(series(chart)) for chart in charts] == [MAX_SERIES, 1]
    assert [chart.name for chart in charts] == ["cnf-gradient-error-against-time", "cnf-gradient-error-against-time-2"]
    settings = [timed("direct", rtol=r, solver=f"s{n}") for n in range(MAX_CHARTS + 1) for r in (1e-3, 1e-5)]
    time = work_precision(settings)[: MAX_CHARTS + 1]
    assert [type(each) for each in time] == [Chart] * MAX_CHARTS + [Missing]
    assert time[-1].what == "Gradient error against time of 1 further setting"


def test_a_backend_looks_as_it_does_everywhere():
    """Colour, shape and dash in the chart are those of its style, whatever else is drawn."""
    cells = [timed(name, rtol=rtol) for name in ("scipy", "direct[land=true]") for rtol in (1e-3, 1e-5)]
    definition = work_precision(cells)[0].definition.to_dict()
    points = next(layer for layer in definition["layer"] if layer["mark"]["type"] == "point")["encoding"]
    line = next(layer for layer in definition["layer"] if layer["mark"]["type"] == "line")["encoding"]
    landed, scipy = style("direct[land=true]"), BACKENDS["scipy"]
    assert points["color"]["scale"] == {
        "domain": ["direct[land=true]", "scipy"],
        "range": [landed.colour, scipy.colour],
    }
    assert points["shape"]["scale"]["range"] == [landed.shape, scipy.shape]
    assert points["fill"]["scale"]["range"] == ["transparent", scipy.colour]
    assert line["strokeDash"]["scale"]["range"] == [list(landed.dash), list(scipy.dash)]


def test_the_course_of_a_training():
    """Evaluations by epoch of the models that have any, and what each reached by its training time."""
    forward, backward, validation, loss = courses([trained("cnf", 3.0, "direct"), trained("planar", 3.5)])
    assert [(row["series"], row["x"], row["y"]) for row in rows(forward)] == [("direct", 1, 21), ("direct", 2, 22)]
    assert series(backward) == {"direct"}
    assert [(row["series"], row["x"], row["y"]) for row in rows(validation)] == [
        ("direct", 10, 4), ("direct", 20, 3.5), ("planar", 10, 4.5), ("planar", 20, 4),
    ]  # fmt: skip
    assert series(loss) == {"direct", "planar"}
    assert "NLL on validation data, nats" in str(validation.definition.to_dict())


def test_a_metric_has_the_axis_of_its_own_task():
    """A divergence and a likelihood of one base task: each chart names its own."""
    target = trained("cnf", 0.1, "direct", task="cnf[dataset=u1]", dataset="u1", metric_name="KL")
    charts = courses([target, trained("cnf", 3.0, "direct")])
    titles = [re.findall(r"'(\w+) on validation data", str(chart.definition.to_dict())) for chart in charts]
    assert [set(found) for found in titles if found] == [{"KL"}, {"NLL"}]


def test_trainings_of_another_machine_have_their_own_report():
    """What was trained elsewhere is drawn by epoch; over time are only those of one machine."""
    both = [trained("cnf", 3.0, "direct"), trained("cnf", 3.0, "direct", task="cnf[dataset=u1]", **ELSEWHERE)]
    other = trained("planar", 3.5, **ELSEWHERE)
    cells = [*both, other]
    for name, over_time in (("node-1", [{"direct"}]), ("node-3", [{"planar"}, {"direct"}])):
        charts = courses(Machines.of(cells, ENVIRONMENTS, name).with_times_of_one(cells))
        assert [series(chart) for chart in charts] == [{"direct"}] * 4 + over_time * 2


def test_settings_of_a_training_are_not_joined_to_one_line():
    """Two controllers are two charts, not one line that runs twice."""
    forward, other, *_ = courses(
        [trained("cnf", 3.0, "direct"), trained("cnf", 3.1, "direct", controller="pi", seed=0)]
    )
    assert [len(rows(chart)) for chart in (forward, other)] == [2, 2]


def test_the_error_along_a_training_has_a_line_for_each_backend():
    """Also of a training that failed. No error has no point, and on a logarithmic axis neither has an error of 0."""
    failed = {"status": "diverged", "reason": "r", "dataset": None, "tracked_errors": moments(1e-4, 0.3, None)}
    (chart,) = tracked(
        [trained("cnf", 3.0, "direct", tracked_errors=moments(0.0, 1e-4, 1e-3)), record("adjoint", **failed)]
    )
    found = [(row["series"], row["x"], row["y"]) for row in rows(chart)]
    assert found == [("direct", 1, 1e-4), ("direct", 2, 1e-3), ("adjoint", 0, 1e-4), ("adjoint", 1, 0.3)]
    assert chart.name == "cnf-gradient-error-by-epoch"
    assert '"type": "log"' in chart.definition.to_json(indent=None).replace('":"', '": "')


def test_errors_along_a_training_that_are_not_stated_leave_a_hole():
    """Where nothing was tracked there is no word of it."""
    (hole,) = tracked([trained("cnf", 3.0, "direct", tracked_errors=moments(None, None, reason="why"))])
    assert "the table says why" in hole.reason
    assert tracked([trained("cnf", 3.0, "direct")]) == []


def test_points_of_one_chart_are_told_apart():
    """Options have no dash to show in points: they differ in colour, shape or filling."""
    names = [*BACKENDS, *(f"direct[c={n}]" for n in range(MAX_SERIES - 1)), "mine", "yours"]
    for chart in backward_evaluations([timed(name, nfe_forward=20 + at) for at, name in enumerate(names)]):
        encoding = next(e for e in chart.definition.to_dict()["layer"] if e.get("mark", {}).get("type") == "point")[
            "encoding"
        ]
        scales = [encoding[channel]["scale"]["range"] for channel in ("color", "shape", "fill")]
        assert len(set(zip(*scales, strict=True))) == len(series(chart))


def test_lines_that_hide_each_other_are_named():
    """Two backends with the same evaluations: the caption says that there are two."""
    forward, *_ = courses([trained("cnf", 3.0, "direct"), trained("cnf", 3.0, "adjoint")])
    assert forward.caption.endswith("On each other lie `adjoint`, `direct`.")


@pytest.mark.parametrize("records", [[], [record("direct", status="failed", reason="why")]])
def test_nothing_measured_leaves_holes(records):
    """No chart fails for want of data; each says what it needs."""
    found = [
        *work_precision(records),
        *growth(records),
        *backward_evaluations(records),
        *courses(records),
    ]
    assert {type(each) for each in found} == {Missing}
    assert all(each.reason.endswith(".") for each in found)


def seen(records):
    """The picture of records that make one comparison."""
    (comparison,) = comparisons(records)
    return picture(answer(comparison))


def test_the_picture_has_a_mark_for_each_method():
    """At its memory and time, with its interval and error; who is on the front is bold."""
    cells = [
        timed("direct", peak_memory_bytes=2**22),
        timed("adjoint", 1.5, peak_memory_bytes=2**20, grad_error_params=1e-3),
        timed("scipy", 3.0, peak_memory_bytes=2**23, grad_error_params=None),
        timed("checkpoint", 4.0, peak_memory_bytes=2**23, status="wrong_gradient", reason="r"),
    ]
    assert "the Pareto front" not in seen(cells).caption  # an error is not stated: who is on it is not known
    cells[2] = timed("scipy", 3.0, peak_memory_bytes=2**23, grad_error_params=1e-2)
    shown = seen(cells)
    found = {
        row["name"]: (row["x"], row["y"], row["low"], row["high"], row["error"], row["weight"]) for row in rows(shown)
    }
    assert found == {
        "direct": (4.0, 10.0, 9.0, 11.0, 1e-4, "bold"),
        "adjoint": (1.0, 15.0, 13.5, 16.5, 1e-3, "bold"),
        "scipy": (8.0, 30.0, 27.0, 33.0, 1e-2, "normal"),
    }
    assert "In bold: the Pareto front of error, memory and time; dashed: that of memory and time alone" in shown.caption
    assert "viridis" in str(shown.definition.to_dict())
    assert "viridis" in str(shown.narrow.to_dict())


def test_a_picture_that_would_say_nothing_is_left_out():
    """Of one method, of methods in one place, and of what was not timed."""
    assert seen([timed("direct")]) is None
    assert seen([timed("direct"), timed("adjoint", 1.0)]) is None
    assert seen([timed("direct", peak_memory_bytes=None), timed("adjoint", 1.5, peak_memory_bytes=None)]) is None


def test_a_picture_of_equal_errors_has_no_scale_of_colours():
    """A gradient from one figure to the same would say nothing."""
    assert "viridis" not in str(seen([timed("direct"), timed("adjoint", 1.5)]).definition.to_dict())


def test_names_in_a_picture_lie_over_no_other():
    """However close the marks are; a name is within the picture, whatever its length."""
    size, n = (285, 250), 13
    places = [(140 + 2.0 * at, 120 + 3.0 * at) for at in range(n)]
    found = placed(["torchdiffeq-adjoint"] * n, places, [Box(x - 3, y - 20, x + 3, y + 20) for x, y in places], size)
    pairs = [(one, other) for at, one in enumerate(found) for other in found[at + 1 :]]
    assert sum(one.shared(other) > 0 for one, other in pairs) == 0
    assert all(box.left >= 0 and box.right <= size[0] and box.top >= 0 and box.bottom <= size[1] for box in found)


def test_files_of_one_name_keep_their_folders_in_a_picture():
    """Others lose them; what is too long loses its middle."""
    assert short_labels(["./a/b/mine.py:Mine", "old/step.py:S", "new/step.py:S", "x" * 40]) == [
        "mine.py:Mine", "old/step.py:S", "new/step.py:S", f"{'x' * 15}…{'x' * 8}"
    ]  # fmt: skip
