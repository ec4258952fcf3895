"""A request becomes cells only when every name and number in it is right."""

from dataclasses import replace

import pytest

from nodebench import registry
from nodebench.bench.matrix import Request, plan
from nodebench.bench.plan import parse_shard
from nodebench.errors import UnknownNameError, UserError

BACKEND, TASK = "nodebench.testing:FakeBackend", "nodebench.testing:FakeTask"


def request(**changes):
    return Request(**{"backends": (BACKEND,), "tasks": (TASK,), "preset": "smoke", **changes})


def test_the_matrix_is_the_product():
    """Backends x tolerances x seeds, each with an id of its own."""
    planned = plan(request(backends=(BACKEND, f"{BACKEND}[behaviour=raise]"), rtols=(1e-3, 1e-5), seeds=(0, 1)))
    assert len(planned.cells) == 8
    assert len({cell.cell_id for cell in planned.cells}) == 8
    assert [len(group) for group in planned.groups] == [2, 2, 2, 2]


def test_training_steps_of_all_models_are_compared():
    """Networks, methods and tolerances of a task take turns; another batch or seed is another group."""
    models = ("growth", "constant")
    planned = plan(request(models=models, rtols=(1e-3, 1e-5), seeds=(0, 1), measure="training-step"))
    assert [len(group) for group in planned.groups] == [3, 3]
    assert [{cell.seed for cell in group} for group in planned.groups] == [{0}, {1}]


def test_equal_settings_have_equal_ids():
    """An id depends on the settings alone, not on their spelling or repetition."""
    once = plan(request(backends=(f"{BACKEND}[sleep_s=0,behaviour=ok]",)))
    twice = plan(request(backends=(f"{BACKEND}[behaviour=ok, sleep_s=0]", f"{BACKEND}[sleep_s=0,behaviour=ok]")))
    assert once == twice
    assert once.plan_id == twice.plan_id


@pytest.mark.parametrize("n_shards", [1, 2, 3, 5, 9])
def test_shards_are_the_plan(n_shards):
    """Each group is whole in one of them; with as many as groups or fewer, none is empty; the same every time."""
    whole = plan(
        request(backends=(BACKEND, f"{BACKEND}[behaviour=raise]"), models=("all",), rtols=(1e-3, 1e-5), seeds=(0, 1))
    )
    assert len(whole.groups) == 6
    shards = [whole.shard(number, n_shards) for number in range(1, n_shards + 1)]
    assert sorted(group for shard in shards for group in map(str, shard.groups)) == sorted(map(str, whole.groups))
    assert [len(shard.groups) for shard in shards] == [len(whole.groups[at::n_shards]) for at in range(n_shards)]
    assert (shards[0].plan_id == whole.plan_id) == (n_shards == 1)
    assert len({shard.plan_id for shard in shards if shard.cells}) == min(n_shards, 6)
    assert [whole.shard(number, n_shards) for number in range(1, n_shards + 1)] == shards


def test_a_shard_has_the_reasons_of_its_own_cells():
    """What is known of cells in planning goes with them; a broken plugin is everybody's."""
    whole = plan(request(seeds=(0, 1)))
    refused = {cell.cell_id: "it cannot." for cell in whole.cells}
    shard = replace(whole, unsupported=refused, broken={"mine": "it cannot be imported."}).shard(2, 2)
    assert [*shard.unsupported] == [cell.cell_id for cell in shard.cells]
    assert shard.broken == {"mine": "it cannot be imported."}


@pytest.mark.parametrize("text", ["", "2", "0/2", "3/2", "1/0", "-1/2", "1/2/3", "a/b", "1.0/2", "²/3"])
def test_a_shard_is_one_of_so_many(text):
    """Anything else is a sentence."""
    with pytest.raises(UserError, match="`--shard` must be I/N with I from 1 to N, for example 2/8; got"):
        parse_shard(text)


def test_atol_follows_rtol():
    """A tolerance given alone stands for both."""
    spec = plan(request(rtols=(1e-6,))).cells[0].spec
    assert (spec.rtol, spec.atol) == (1e-6, 1e-6)


def test_model_without_an_ode_takes_no_backend():
    """A baseline is one cell without a backend, however many backends there are."""
    planned = plan(request(backends=(BACKEND, f"{BACKEND}[behaviour=raise]"), models=("all",)))
    assert sorted((cell.model, cell.backend is None) for cell in planned.cells) == [
        ("constant", True),
        ("growth", False),
        ("growth", False),
    ]


def test_all_backends_are_every_installed_one():
    """`all` is the registry, behind the two libraries that everybody knows, of which the first measured is control."""
    planned = plan(Request(backends=("all",), tasks=("linear",)))
    found = [cell.backend for cell in planned.cells]
    assert sorted(found) == registry.names("backend")
    assert found[:2] == ["torchdiffeq", "diffrax"]
    assert found[2:] == sorted(found[2:])


def test_backends_that_are_named_stay_in_their_order():
    """The first that is named is the control; `all` adds the others behind it."""
    named = plan(Request(backends=("direct", "torchdiffeq"), tasks=("linear",)))
    assert [cell.backend for cell in named.cells] == ["direct", "torchdiffeq"]
    joined = plan(Request(backends=("direct", "all"), tasks=("linear",)))
    assert [cell.backend for cell in joined.cells][:3] == ["direct", "torchdiffeq", "diffrax"]


def test_solvers_of_libraries_can_be_asked_for():
    """A multistep method is a solver like ours; who lacks it says so when it is measured."""
    planned = plan(request(solvers=("lsoda", "vode-adams", "dopri5")))
    assert {cell.spec.solver for cell in planned.cells} == {"lsoda", "vode-adams", "dopri5"}


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"backends": ("adjont",)}, UnknownNameError, "adjoint"),
        ({"tasks": ("mnits",)}, UnknownNameError, "mnist"),
        ({"models": ("grwth",)}, UnknownNameError, "growth"),
        ({"solvers": ("dopri6",)}, UnknownNameError, "dopri5"),
        ({"preset": "quik"}, UnknownNameError, "quick"),
        ({"measure": "grad"}, UnknownNameError, "gradient"),
        ({"device": "gpu"}, UnknownNameError, "cuda"),
        ({"dtype": "float16"}, UserError, "float32"),
        ({"controller": "pid"}, UserError, "'integral' or 'pi'"),
        ({"rtols": (-1e-3,)}, UserError, "`rtol` must be positive"),
        ({"rtols": (0.0,)}, UserError, "`rtol` must be positive"),
        ({"rtols": (float("nan"),)}, UserError, "`rtol` must be positive"),
        ({"atol": 0.0}, UserError, "`atol` must be positive"),
        ({"first_step": -1.0}, UserError, "`first_step` must be positive"),
        ({"max_steps": 0}, UserError, "`max_steps` must be positive"),
        ({"threads": 0}, UserError, "--threads"),
        ({"batch_size": 0}, UserError, "--batch-size"),
        ({"seeds": (-1,)}, UserError, "--seed"),
        ({"tasks": ()}, UserError, "--task"),
        ({"backends": ()}, UserError, "needs a gradient method"),
        ({"models": ("constant",)}, UserError, "takes no backend"),
        ({"models": ("constant",), "backends": (), "measure": "gradient"}, UserError, "nothing to measure"),
        ({"dataset": "x"}, UnknownNameError, "dataset"),
    ],
)
def test_bad_requests_say_what_is_wrong(changes, error, message):
    """Each mistake is an error that names it, before anything is started."""
    with pytest.raises(error, match=message):
        plan(request(**changes))
