"""What is compared, what is ranked, and what the figures are made to say."""

import pytest
from synthetic import ALIKE, ELSEWHERE, ENVIRONMENT, early, record, timed, trained

from nodebench.reports.answers import (
    absence_sentences,
    answer,
    answer_sentences,
    best_first,
    choice_sentence,
    common_answer,
    failure_sentences,
    short_answer,
    training_sentence,
    trainings,
)
from nodebench.reports.comparison import Machines, comparisons


def only(records):
    """The answer of records that make one comparison."""
    (comparison,) = comparisons(records)
    return answer(comparison)


def backends(records):
    return [each.backend for each in records]


def test_cells_are_compared_that_differ_in_the_backend_alone():
    """Another tolerance, seed, device or data set is another comparison."""
    changes = ({"rtol": 1e-3}, {"seed": 1}, {"device": "cuda"}, {"dataset": "digits"}, {"task": "cnf[dataset=u1]"})
    found = comparisons([timed("direct"), timed("adjoint", 1.5), *(timed("direct", **change) for change in changes)])
    assert [backends(each.records) for each in found] == [["direct", "adjoint"], *[["direct"]] * len(changes)]


def test_first_steps_that_differ_in_the_last_digit_are_alike():
    """Where the harness chooses the first step, its last digits follow the machine."""
    assert len(comparisons([timed("direct"), timed("adjoint", first_step=0.05 + 1e-12)])) == 1


def test_the_newest_record_of_a_cell_counts():
    """What was measured again replaces what was measured before."""
    old, new = timed("direct"), timed("direct", run_id="run-2", created_at="2026-02-01", peak_memory_bytes=5)
    (comparison,) = comparisons([old, new])
    assert comparison.records == (new,)


def test_a_cell_that_failed_before_it_was_prepared_stays_in_its_comparison():
    """Knowing neither data set nor first step, it agrees with the only group there is, in the order of measuring."""
    cells = [early("scipy"), timed("direct"), early("diffrax", "not_installed"), timed("adjoint", 1.5)]
    (comparison,) = comparisons([*cells, early("symplectic", dataset="moons")])
    assert backends(comparison.records) == ["scipy", "direct", "diffrax", "adjoint", "symplectic"]
    assert "first step 0.05" in comparison.setting


def test_a_cell_that_failed_early_is_put_to_no_one_of_several_groups():
    """Two first steps were measured; which of them it would have had is not known."""
    failed = [early("scipy"), early("diffrax")]
    found = comparisons([timed("direct"), timed("direct", first_step=0.1), *failed, early("direct", rtol=1e-3)])
    assert [backends(each.records) for each in found] == [["direct"], ["direct"], ["scipy", "diffrax"], ["direct"]]


def test_a_failure_vanishes_when_its_cell_ends_well():
    """Only the newest attempt counts, whatever the failed one knew of its setting."""
    (comparison,) = comparisons([early("direct"), timed("direct", created_at="2026-02-01")])
    assert [each.status for each in comparison.records] == ["ok"]


def test_a_failed_training_leaves_the_figures_of_the_gradient():
    """They are shown and ranked as before, and the later failure is told beside them."""
    failed = early("adjoint", "diverged", reason="the loss is NaN.", run_id="run-2", created_at="2026-02-01")
    found = only([timed("direct"), timed("adjoint", 0.5), failed])
    assert found.fastest.record.backend == "adjoint"
    assert absence_sentences(found) == (
        "The figures of `adjoint` are of run `run-1`; a later attempt, in run `run-2`, ended `diverged`: "
        "the loss is NaN.",
    )


def test_a_failure_with_figures_replaces_those_before_it():
    """A gradient that was found wrong is not ranked by what it was before."""
    wrong = timed("adjoint", 0.5, status="wrong_gradient", reason="it differs.", created_at="2026-02-01")
    found = only([timed("direct"), timed("adjoint", 0.5), wrong])
    assert backends(found.not_ranked) == ["adjoint"]


def test_only_cells_of_one_run_are_ranked_by_time():
    """A cell that was timed in another run is shown apart, however fast it was; the largest set counts."""
    first = [timed("direct"), timed("adjoint", 1.5), timed("scipy", 3.0)]
    other = [timed("checkpoint", run_id="run-2"), timed("symplectic", 0.1, control="checkpoint", run_id="run-2")]
    found = only([*first, *other])
    assert backends(found.comparison.timed) == ["direct", "adjoint", "scipy"]
    assert backends(found.comparison.timed_elsewhere) == ["checkpoint", "symplectic"]
    assert found.fastest.record.backend == "direct"
    assert any("`checkpoint`, `symplectic` were timed in another run" in text for text in answer_sentences(found))


@pytest.mark.parametrize("where", [ALIKE, ELSEWHERE])
def test_only_cells_of_one_node_are_ranked_by_time(where):
    """One run and one control's name, and yet not one set: they never took turns. All else is compared."""
    other = timed("symplectic", 0.1, peak_memory_bytes=2**10, **where)
    found = only([timed("direct"), timed("adjoint", 1.5), timed("scipy", 3.0), other])
    assert backends(found.comparison.timed) == ["direct", "adjoint", "scipy"]
    assert backends(found.comparison.timed_elsewhere) == ["symplectic"]
    assert found.fastest.record.backend == "direct"
    assert "symplectic" not in backends(found.front)
    assert backends(found.leanest.records) == ["symplectic"]
    assert "`symplectic` was timed on another node: shown, not ranked by time." in answer_sentences(found)


def test_where_a_cell_was_timed_instead_is_told():
    """Each reason in a sentence of its own: another run, another run on another node, another control."""
    cells = [timed("direct"), timed("adjoint", 1.5), timed("scipy", 3.0)]
    cells += [timed("checkpoint", 1.5, run_id="run-2"), timed("reversible", 1.5, run_id="run-3", **ALIKE)]
    cells += [timed("symplectic", 1.5, control="interpolated")]
    assert [text for text in answer_sentences(only(cells)) if "timed" in text and "ranked" in text] == [
        "`checkpoint` was timed in another run: shown, not ranked by time.",
        "`reversible` was timed in another run, on another node: shown, not ranked by time.",
        "`symplectic` was timed against another control: shown, not ranked by time.",
    ]


def test_of_equal_sets_the_newest_is_ranked():
    """Two runs of the same cells: the times of the second are shown."""
    cells = (timed("direct"), timed("adjoint", 1.5))
    later = {"run_id": "run-2", "created_at": "2026-02-01"}
    again = (timed("direct", **later), timed("adjoint", 0.5, **later))
    found = only([*cells, *again])
    assert found.fastest.record.backend == "adjoint"
    assert {each.run_id for each in found.comparison.records} == {"run-2"}


def test_the_fastest_is_told_from_those_whose_intervals_do_not_overlap():
    """One that overlaps is not slower; one that does not, is."""
    found = only([timed("direct"), timed("adjoint", 0.5), timed("scipy", 0.53), timed("checkpoint", 0.6)])
    assert found.fastest.record.backend == "adjoint"
    assert backends(found.fastest.undistinguished) == ["scipy"]
    (sentence, *_) = answer_sentences(found)
    assert sentence == (
        "Fastest: not decided. The lowest time has `adjoint`, 5 ms a step (4.5..5.5), 0.5 of the time of `direct` "
        "(0.48..0.52); the intervals do not tell it from `scipy`."
    )


def test_an_undecided_cell_is_not_told_from_its_control():
    """An interval that holds 1 decides nothing, and the sentence has the figures."""
    found = only([timed("direct"), timed("adjoint", 0.99), timed("scipy", 2.0)])
    assert backends(found.fastest.undistinguished) == ["direct"]
    assert backends(found.undecided) == ["adjoint"]
    assert any("`adjoint` 0.99 (0.97..1.01)" in text for text in answer_sentences(found))


def test_a_ratio_without_an_interval_decides_nothing():
    """From one start nothing is known of the next."""
    single = timed("adjoint", 0.5, ratio_low=None, ratio_high=None, verdict="undecided")
    found = only([timed("direct"), single, timed("scipy", 3.0)])
    assert found.fastest.record.backend == "direct"
    assert backends(found.fastest.undistinguished) == ["adjoint"]


def test_figures_that_print_alike_are_equal():
    """The leanest and most exact are all those that a table could not tell apart."""
    exact = [timed("direct", grad_error_params=1.001e-5), timed("checkpoint", 1.2, grad_error_params=1.002e-5)]
    found = only([*exact, timed("adjoint", 1.5, grad_error_params=2e-5, peak_memory_bytes=2**18)])
    assert backends(found.most_exact.records) == ["direct", "checkpoint"]
    assert backends(found.leanest.records) == ["adjoint"]
    assert "Leanest: `adjoint`, peak memory 0.25 MiB; the highest has `direct`, 1 MiB." in answer_sentences(found)


def test_the_pareto_front_holds_what_nothing_beats():
    """Fast, lean and exact cells are on it, one that is worse in all is not; times that overlap are equal."""
    cells = [
        timed("direct", peak_memory_bytes=4 * 2**20),
        timed("adjoint", 1.5, peak_memory_bytes=2**20, grad_error_params=1e-3),
        timed("scipy", 3.0, peak_memory_bytes=5 * 2**20, grad_error_params=1e-2),
        timed("checkpoint", 1.01, peak_memory_bytes=2 * 2**20),
    ]
    assert backends(only(cells).front) == ["adjoint", "checkpoint"]


def test_only_a_cell_of_the_front_keeps_another_from_it():
    """Times that overlap are not transitive: what is beaten by no cell of the front is on it."""
    cells = [
        timed("direct"),
        timed("lean", 1.30, half=0.05, peak_memory_bytes=2**18),
        timed("between", 1.22, half=0.05, peak_memory_bytes=2**19),
        timed("fast", 1.14, half=0.05, peak_memory_bytes=2**19 + 2**18),
    ]
    found = only(cells)
    assert backends(found.front) == ["direct", "lean", "fast"]
    assert (
        "Pareto front of error, memory and time: `direct`, `lean`, `fast`; none was shown to be at least as good as "
        "these in all three and better in one." in answer_sentences(found)
    )


def test_a_cell_without_an_interval_of_its_time_has_no_place_on_the_front():
    """From one start it is not known whether it is faster than any other."""
    single = timed("adjoint", 0.5, ratio_low=None, ratio_high=None, verdict="undecided", peak_memory_bytes=1)
    found = only([timed("direct"), single])
    assert found.front == ()
    assert any(text.startswith("Pareto front: not known") for text in answer_sentences(found))
    assert backends(only([timed("direct"), single, timed("scipy", 2.0)]).front) == ["direct"]


def test_what_is_not_known_is_said_in_whole_sentences():
    """Of a pair of which one alone has its figures."""
    found = only([timed("direct", grad_error_params=None), early("scipy")])
    fastest, leanest, exact, *_ = answer_sentences(found)
    assert fastest == "Fastest: not known, because fewer than two cells were timed together."
    assert leanest == "Leanest: not known, because the peak memory of fewer than two cells is known."
    assert exact == "Most exact: not known, because the error of d/dparams of fewer than two cells is known."


def test_an_error_too_small_to_be_stated_may_be_the_smallest():
    """Where the error of a cell cannot be stated, no other is called most exact, and the front is not known."""
    cells = [
        timed("direct", grad_error_params=None),
        timed("adjoint", 1.5),
        timed("scipy", 2.0, grad_error_params=1e-2),
    ]
    found = only(cells)
    sentences = answer_sentences(found)
    assert "Most exact: not known, because the error of d/dparams of `direct` is not stated." in sentences
    assert "Pareto front: not known, because error or memory of `direct` is not stated." in sentences
    assert sentences[0].startswith("Fastest: `direct`")


@pytest.mark.parametrize("status", ["wrong_gradient", "incomparable"])
def test_what_must_not_be_ranked_is_not(status):
    """However fast, lean and exact it is, it wins nothing, and the answer says why."""
    best = {"grad_error_params": 1e-9, "peak_memory_bytes": 1, "status": status, "reason": "it differs."}
    found = only([timed("direct"), timed("adjoint", 1.5), timed("scipy", 0.1, **best)])
    assert found.fastest.record.backend == "direct"
    assert "scipy" not in [
        *backends(found.leanest.records),
        *backends(found.most_exact.records),
        *backends(found.front),
    ]
    assert f"Not ranked: `scipy`, `{status}`: it differs." in answer_sentences(found)


def test_a_single_cell_is_compared_with_nothing():
    """It says so, and gives its figures."""
    (sentence,) = answer_sentences(only([timed("direct")]))
    assert sentence == (
        "Only `direct` was measured in this setting, so nothing was compared: 10 ms a step, peak memory 1 MiB, "
        "error of d/dparams 0.0001."
    )


def test_a_failure_with_some_figures_is_not_said_to_have_none():
    """A training that diverged after its gradient was measured: shown, not ranked, and told so."""
    half = timed("adjoint", 0.5, status="diverged", reason="the loss is NaN.")
    assert absence_sentences(only([timed("direct"), half, early("scipy")])) == (
        "Not ranked: `adjoint`, `diverged`: the loss is NaN.",
        "No figures: `scipy`, `unsupported`: it cannot.",
    )


def test_a_single_failure_was_not_measured():
    """It is not called measured, and no figures are promised."""
    (sentence,) = answer_sentences(only([early("scipy")]))
    assert sentence == "Only `scipy` was tried in this setting, and ended `unsupported`: nothing was compared."


def test_failures_are_told_by_status_with_a_reason():
    """Each status once, with how many and the first reason."""
    failed = [record(name, status="oom", reason="no memory.") for name in ("direct", "adjoint")]
    assert failure_sentences(failed) == ("`oom`: 2 cells, such as `direct` on `cnf`: no memory.",)


def test_seeds_of_a_training_are_taken_together():
    """The mean decides, the range is given, and a single seed is said to be one."""
    seeds = [trained("cnf", value, "direct", seed=seed) for seed, value in enumerate((3.0, 3.2))]
    (training,) = trainings([*seeds, trained("planar", 3.5)])
    assert [(len(each.records), each.mean) for each in training.trained] == [(2, pytest.approx(3.1)), (1, 3.5)]
    assert training_sentence(training) == (
        "`cnf` (moons, preset smoke): best NLL 3.1 nats (mean of 2 seeds, 3 to 3.2) by cnf with `direct`; next is "
        "planar with 3.5 nats (a single seed). How much of that is the seed is not known."
    )


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"controller": "pi"}, "controller"),
        ({"threads": 2}, "threads"),
        ({"max_steps": 7}, "max steps"),
        ({"framework": "jax"}, "framework"),
        ({"rtol": 1e-3}, "rtol"),
        ({"batch_size": 8}, "batch"),
    ],
)
def test_settings_of_a_training_are_not_taken_for_seeds(change, told):
    """Two settings are two trainings, and their labels say in what they differ."""
    (training,) = trainings([trained("cnf", 3.0, "direct"), trained("cnf", 3.2, "direct", **change)])
    assert [len(each.records) for each in training.trained] == [1, 1]
    assert [told in each.label for each in training.trained] == [True, True]
    assert "mean of" not in training_sentence(training)


def test_steps_of_a_fixed_solver_are_a_setting_of_its_training():
    """Of an adaptive solver the first step follows from the weights, so from the seed."""
    fixed = [trained("cnf", 3.0, "direct", solver="rk4", first_step=step, seed=seed)
             for seed, step in enumerate((0.1, 0.2))]  # fmt: skip
    (training,) = trainings(fixed)
    assert [each.label for each in training.trained] == ["cnf with `direct` (step 0.1)", "cnf with `direct` (step 0.2)"]
    adaptive = [trained("cnf", 3.0, "direct", first_step=step, seed=seed) for seed, step in enumerate((0.1, 0.2))]
    assert [len(each.records) for each in trainings(adaptive)[0].trained] == [2]


def test_a_seed_counts_once():
    """Cells that differ in what a training does not know, such as the gradient's time span, are one seed."""
    again = trained("cnf", 9.0, "direct", horizon=2.0, created_at="2026-02-01")
    (training,) = trainings([trained("cnf", 3.0, "direct"), again])
    assert [(len(each.records), each.mean) for each in training.trained] == [(1, 9.0)]


def test_higher_metrics_may_be_better():
    """The direction is the record's."""
    (training,) = trainings(
        [trained(name, value, metric_direction="higher") for name, value in (("a", 1.0), ("b", 2.0))]
    )
    assert training.trained[0].records[0].model == "b"


def test_unlike_machines_are_named_and_not_drawn_together():
    """Another processor is another machine, another commit is not."""
    environments = {"a": ENVIRONMENT, "b": ENVIRONMENT | {"git": None}, "c": ENVIRONMENT | {"cpu": "slide rule"}}
    records = [timed("direct", environment=key, node=None) for key in environments]
    machines = Machines.of(records, environments)
    assert [machines.of_record(record) for record in records] == [0, 0, 1]
    assert machines.unlike() == ["Machine 1 and machine 2 differ in cpu: abacus against slide rule."]
    shown = machines.with_times_of_one(records)
    assert shown[:2] == records[:2]
    assert (shown[2].step_s, shown[2].peak_memory_bytes) == (None, records[2].peak_memory_bytes)


def test_the_short_answer_has_three_lines():
    """The fastest; the leanest and the most exact; what to choose, for what."""
    cells = [
        timed("direct", peak_memory_bytes=2**22),
        timed("adjoint", 1.5, grad_error_params=1e-3),
        timed("scipy", 3.0, grad_error_params=1e-2, peak_memory_bytes=2**23),
    ]
    assert short_answer(only(cells)) == (
        "Fastest: `direct`, 10 ms.",
        "Leanest: `adjoint`, 1 MiB. Most exact: `direct`, 0.0001.",
        "Choose `direct` for time and exactness, `adjoint` for memory; no other was shown to beat these.",
    )


def test_what_dominates_is_to_be_chosen():
    """One that none was shown to be better than in anything; one whose time is not known is named beside it."""
    cells = [timed("direct", 0.5, control="adjoint"), timed("adjoint"), timed("scipy", 0.6, control="adjoint")]
    assert choice_sentence(only(cells)) == (
        "Choose `direct`: no other was shown to be better in error, memory or time."
    )
    single = timed("symplectic", 0.1, control="adjoint", ratio_low=None, ratio_high=None, peak_memory_bytes=1)
    assert choice_sentence(only([*cells, single])) == (
        "Choose `direct`: no other was shown to be better in error, memory or time. Not weighed, without an interval "
        "of time: `symplectic`."
    )


def test_an_undecided_choice_says_so():
    """Who may be as fast as the one that is to be chosen for its time is named, as is who is best in nothing."""
    cells = [
        timed("direct", peak_memory_bytes=2**23),
        timed("adjoint", 1.01, peak_memory_bytes=2**22, grad_error_params=1e-3),
        timed("scipy", 3.0, peak_memory_bytes=2**20, grad_error_params=1e-2),
        timed("checkpoint", 2.0, peak_memory_bytes=2**21, grad_error_params=5e-3),
    ]
    fastest, _, choice = short_answer(only(cells))
    assert fastest == "Fastest: not decided between `direct`, 10 ms, and `adjoint`."
    assert choice == (
        "Choose `direct` for time and exactness, `scipy` for memory (`adjoint` may be as fast); no other was shown to "
        "beat these. In between, and beaten by none: `checkpoint`."
    )


def test_a_choice_that_is_not_known_says_why():
    """Without errors, and without intervals."""
    unknown = [timed("direct", grad_error_params=None), timed("adjoint", 1.5), timed("scipy", 2.0)]
    assert choice_sentence(only(unknown)) == "Choose: not known, because error or memory of `direct` is not stated."
    single = timed("adjoint", 0.5, ratio_low=None, ratio_high=None)
    fastest, *_ = short_answer(only([timed("direct"), single]))
    assert fastest == "Fastest: not known, because no ratio of times has an interval."


def test_several_settings_have_one_answer():
    """Who is best in how many of them; what is not decided counts for nobody."""
    one = [timed("direct"), timed("adjoint", 2.0, peak_memory_bytes=2**19)]
    two = [timed("direct", rtol=1e-3), timed("adjoint", 1.01, rtol=1e-3)]
    assert common_answer([only(one), only(two)]) == (
        "Fastest: `direct` in 1 of 2.",
        "Leanest: `adjoint` in all 2, `direct` in 1 of 2. Most exact: `direct`, `adjoint` in all 2.",
        "Choose: on the Pareto front of error, memory and time `direct`, `adjoint` in all 2.",
    )


def test_the_best_come_first():
    """By the ratio of times, then what was not timed with them, then what may not be ranked, then what failed."""
    cells = [early("scipy", "oom"), timed("direct"), timed("adjoint", 0.5, status="wrong_gradient", reason="r"),
             timed("checkpoint", 0.9), timed("diffrax", run_id="run-0", created_at="2026-01-01")]  # fmt: skip
    assert backends(best_first(only(cells).comparison)) == ["checkpoint", "direct", "diffrax", "adjoint", "scipy"]
