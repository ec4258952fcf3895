"""`nodebench recommend` measures what it needs, and no more."""

import json

import pytest
from commands import nodebench

pytest.importorskip("torch")

from nodebench import recommending
from nodebench.options import RecommendOptions
from nodebench.results.store import Store


def asked(tmp_path, *arguments):
    """What the command prints as JSON, and the records of its run."""
    store = tmp_path / "results.db"
    shown = nodebench(
        *("recommend", "-t", "linear", "-b", "direct,scipy", "--json", "--store", store),
        *("--budget-s", "1000", "--rounds", "1", "--dtype", "float64"),
        *arguments,
    )
    found = json.loads(shown.stdout) if shown.stdout else None
    return shown, found, Store(store).records() if store.exists() else []


def test_it_goes_down_the_tolerances_until_the_error_is_reached(tmp_path):
    """Times are taken of what fits alone, and all is one run of the store, from which it can be asked again."""
    shown, found, records = asked(tmp_path, "--error", "1e-3", "--rtol", "1e-2,1e-4,1e-6,1e-8")
    assert shown.returncode == 0, shown.stderr
    (choice,) = found["choices"]
    tried = [record for record in records if record.backend == "direct"]
    assert [record.rtol for record in tried if record.grad_error_params <= 1e-3] == [choice["rtol"]]
    assert min(record.rtol for record in tried) == choice["rtol"] > 1e-8
    assert [record.step_s is not None for record in tried] == [record.rtol == choice["rtol"] for record in tried]
    assert found["code"] in found["answer"] or found["code"].startswith("nodebench.odeint(")
    assert "unsupported" in found["lost"][0]["reason"]
    (run,) = Store(tmp_path / "results.db").runs()
    assert ({record.run_id for record in records}, run.made_by) == ({run.run_id}, "recommend")
    again = nodebench("recommend", run.run_id, "--error", "1e-3", "--store", tmp_path / "results.db", "--json")
    assert json.loads(again.stdout)["choices"][0]["rtol"] == choice["rtol"]
    nobody = nodebench("recommend", run.run_id, "--error", "1e-13", "--store", tmp_path / "results.db")
    assert nobody.returncode == 1
    assert "The nearest is" in " ".join(nobody.stdout.split())


def test_wishes_and_plans_that_are_none_are_sentences(tmp_path):
    """Before anything is measured."""
    for arguments, sentence in (
        (("recommend",), "name a RUN that has been measured, or what to measure"),
        (("recommend", "latest", "-t", "linear"), "name a RUN that has been measured, or what to measure"),
        (("recommend", "-t", "linear", "--error", "0"), "`error` must be a positive number"),
        (("recommend", "-t", "linear", "--memory", "much"), "`memory` must be a positive number with a unit"),
        (("recommend", "-t", "linear", "--budget-s", "0"), "`--budget-s` must be positive"),
        (("recommend", "latest", "--error", "1"), "there is no store"),
    ):
        shown = nodebench(*arguments, "--store", tmp_path / "no.db")
        assert shown.returncode == 2
        assert sentence in shown.stderr
    assert not (tmp_path / "no.db").exists()


def test_the_ladder_begins_at_the_error_and_ends_where_rounding_decides(tmp_path):
    """Tolerances that are named are those that are tried, and without an error the task's own is."""

    def tolerances(**options):
        wishes = recommending.Wishes.of(options.get("error"))
        asked = RecommendOptions(tasks=["linear"], store=tmp_path / "no.db", **options)
        return recommending.Search(asked, wishes, None, tmp_path)._tolerances()

    assert tolerances(error=1e-4) == [(1e-4,), (1e-6,), (1e-7,)]
    assert tolerances(error=1e-3) == [(1e-3,), (1e-5,), (1e-7,)]
    assert tolerances(error=1e-7, dtype="float64") == [(1e-7,), (1e-8,)]
    assert tolerances(error=1e-12) == [(1e-7,)]
    assert tolerances(error=1e-3, rtols=[1e-5, 1e-2]) == [(1e-2,), (1e-5,)]
    assert tolerances() == [()]
