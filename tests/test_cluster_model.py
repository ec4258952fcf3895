"""The model of Ray's placement that a benchmark sets beside the measured wall times."""

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

pytest.importorskip("ray")


@pytest.fixture(scope="module")
def benchmark_module():
    spec = spec_from_file_location("cluster_benchmark", Path(__file__).parents[1] / "benchmarks" / "cluster.py")
    module = module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def test_one_cpu_does_one_thing_after_the_other(benchmark_module):
    """A single CPU takes the sum of all lengths, which is also the ideal and the bound."""
    chains = [(2.0, [1.0, 3.0]), (1.0, [4.0])]
    for function in (benchmark_module.modelled, benchmark_module.ideal, benchmark_module.bound):
        assert function(chains, 1, 1) == 11.0


def test_groups_take_whole_nodes_and_trainings_share_them(benchmark_module):
    """Two groups one after the other on one node of two CPUs, then three trainings two at a time."""
    chains = [(2.0, [1.0, 1.0]), (2.0, [1.0])]
    assert benchmark_module.modelled(chains, 1, 2) == 6.0
    assert benchmark_module.ideal(chains, 1, 2) == 5.5


def test_no_placing_undercuts_the_longest_chain(benchmark_module):
    """A group and its longest training bound the time, and on nodes enough are all of it."""
    chains = [(2.0, [1.0, 7.0]), (1.0, [4.0])]
    assert benchmark_module.bound(chains, 8, 1) == benchmark_module.modelled(chains, 8, 1) == 9.0


def test_the_longest_chain_begins_first(benchmark_module):
    """What begins last must not be the longest."""
    chains = [(1.0, [1.0, 1.0]), (1.0, [1.0, 1.0]), (1.0, [4.0])]
    assert benchmark_module.modelled(chains, 2, 1) == 7.0
    assert benchmark_module.modelled(benchmark_module.longest_first(chains), 2, 1) == 6.0
