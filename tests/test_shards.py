"""Shards of a plan, measured one by one into stores of their own, make up what one run measures."""

import json
import re

import pytest
from commands import nodebench

from nodebench.results.store import Store

BACKEND, TASK = "nodebench.testing:FakeBackend", "nodebench.testing:FakeTask"
MATRIX = (
    "run", "-b", f"{BACKEND},{BACKEND}[behaviour=raise],{BACKEND}[sleep_s=0.001]", "-t", TASK, "--rtol", "1e-3,1e-5",
    "--seed", "0,1", "--preset", "smoke", "--measure", "counts",
)  # fmt: skip
N_SHARDS = 3

OF_A_RUN = ("run_id", "created_at", "overhead_s", "first_step_s")
"""What no two runs have in common."""


def measured(path):
    """What was measured, by cell."""
    found = [record.to_dict() for record in Store(path, read_only=True).records()]
    return {record["cell_id"]: {name: record[name] for name in record if name not in OF_A_RUN} for record in found}


def comparisons(page):
    """The headings of a page in Markdown, and the tables of each setting, whose order is that of measuring."""
    text = page.read_text()
    settings = re.findall(r"^\*\*One gradient step: (.*)\*\*\n\n((?:\|.*\n)+)", text, re.MULTILINE)
    time = r"[\d.e-]+ (?=\| 1 \|$)"  # the first step is timed, whatever is measured
    return re.findall(r"^#+ .*$", text, re.MULTILINE), {
        name: re.sub(time, " ", rows, flags=re.MULTILINE) for name, rows in settings
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with the store of the whole plan, and with those of its shards."""
    folder = tmp_path_factory.mktemp("shards")
    done = nodebench(*MATRIX, "--store", "whole.db", cwd=folder)
    assert done.returncode == 1, done.stderr  # one backend raises
    for number in range(1, N_SHARDS + 1):
        nodebench(*MATRIX, "--shard", f"{number}/{N_SHARDS}", "--store", f"shard-{number}.db", cwd=folder)
    return folder


@pytest.mark.worker
def test_the_shards_are_the_run(folder):
    """Every cell is measured once, as in one run."""
    shards = [measured(folder / f"shard-{number}.db") for number in range(1, N_SHARDS + 1)]
    assert [len(shard) for shard in shards] == [6, 3, 3]
    assert {cell: record for shard in shards for cell, record in shard.items()} == measured(folder / "whole.db")


@pytest.mark.worker
def test_merged_they_give_the_page_of_one_run(folder):
    """The same headings and the same tables; each shard is a run of its own, and a report is of all of them."""
    names = [f"shard-{number}.db" for number in range(1, N_SHARDS + 1)]
    assert nodebench("merge", *names, "-o", "all.db", cwd=folder).returncode == 0
    assert len(Store(folder / "all.db").runs()) == N_SHARDS
    assert measured(folder / "all.db") == measured(folder / "whole.db")
    for name in ("all", "whole"):
        assert nodebench("report", "--store", f"{name}.db", "-o", f"{name}.md", cwd=folder).returncode == 0
    found, expected = (comparisons(folder / f"{name}.md") for name in ("all", "whole"))
    assert len(expected[1]) == 4
    assert all("FakeBackend[sleep_s=0.001]" in rows for rows in expected[1].values())
    assert found == expected


@pytest.mark.worker
def test_a_shard_goes_on(folder, tmp_path):
    """`--rerun-failed` and `--resume` find the run of the same shard, and no other's."""
    store = tmp_path / "r.db"
    store.write_bytes((folder / "shard-2.db").read_bytes())
    (run,) = Store(store).runs()
    again = nodebench(*MATRIX, "--shard", "2/3", "--rerun-failed", "--store", str(store), "--json", cwd=folder)
    assert {record["attempt"] for record in json.loads(again.stdout)} == {1, 2}
    assert [found.run_id for found in Store(store).runs()] == [run.run_id]
    other = nodebench(*MATRIX, "--shard", "3/3", "--resume", "--store", str(store), cwd=folder)
    assert "no interrupted run of this plan to continue" in other.stdout
    assert len(Store(store).runs()) == 2


def test_a_dry_run_shows_the_shard(tmp_path):
    """And nothing else."""
    done = nodebench(*MATRIX, "--shard", "2/3", "--dry-run", "--json", cwd=tmp_path)
    assert done.returncode == 0
    assert [(cell["seed"], cell["spec"]["rtol"]) for cell in json.loads(done.stdout)] == [(0, 1e-5)] * 3


@pytest.mark.parametrize("option", [(), ("--dry-run",)])
def test_a_shard_without_a_group_says_so(tmp_path, option):
    """It exits with 0, since there is nothing that could have gone wrong, and makes no store."""
    done = nodebench(*MATRIX, "--shard", "5/8", *option, "--store", "r.db", cwd=tmp_path)
    assert done.returncode == 0
    assert done.stdout.strip() == "nothing to measure in shard 5/8: the plan has 4 groups"
    assert not (tmp_path / "r.db").exists()
    done = nodebench(*MATRIX, "--shard", "5/8", *option, "--json", cwd=tmp_path)
    assert (done.returncode, json.loads(done.stdout)) == (0, [])


def test_a_shard_that_is_none_is_wrong_usage(tmp_path):
    """It exits with 2."""
    done = nodebench(*MATRIX, "--shard", "0/8", cwd=tmp_path)
    assert done.returncode == 2
    assert "`--shard` must be I/N" in done.stderr
