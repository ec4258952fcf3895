"""`docs/torchdiffeq.md`: its code runs, before and after the import line changes, and both give the same."""

import math
import re
from pathlib import Path

import pytest

PAGE = (Path(__file__).parent.parent / "docs/torchdiffeq.md").read_text(encoding="utf-8")
SCRIPT, IN_JAX = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
BEFORE, AFTER = re.findall(r"^[-+](from .*)$", PAGE, re.MULTILINE)


def _run(text):
    names = {}
    exec(compile(text, "docs/torchdiffeq.md", "exec"), names)
    return names


@pytest.mark.parametrize("gradient", ["direct", "adjoint", "torchdiffeq"])
def test_a_script_is_switched_by_its_import_line(gradient):
    """The losses of its training are those of before, as near as the tolerance."""
    assert BEFORE in SCRIPT
    line = AFTER if gradient == "direct" else f"{AFTER}\nfrom functools import partial\n"
    line += "" if gradient == "direct" else f'odeint = partial(odeint, gradient="{gradient}")'
    before, after = (_run(SCRIPT.replace(BEFORE, each))["losses"] for each in (BEFORE, line))
    assert after == pytest.approx(before, rel=1e-3)
    assert after[-1] < after[0]


def test_what_the_page_says_of_jax_runs():
    """The derivative of the end of a decay, whose closed form is known."""
    pytest.importorskip("diffrax")
    assert float(_run(IN_JAX)["found"]) == pytest.approx(-2 * math.exp(-0.5), rel=1e-4)
