"""The command line, called within the process of the tests or as the installed script; what several modules share."""

import os
import shutil
import subprocess
import sys
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from tempfile import gettempdir

import pytest

from nodebench import cli, importing

OURS = (sys.prefix, str(Path(__file__).parent.parent))
"""Where this project and its packages lie, which may be a temporary folder too."""


@contextmanager
def own_imports():
    """As in a process of its own: what is loaded from temporary folders, as users' modules are, is forgotten."""
    known = set(sys.modules)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", list(sys.path))
        patch.setattr(importing, "_folders", [])
        patch.setattr(importing, "_aside", {})
        yield
    for name in sys.modules.keys() - known:
        home = importing._home(sys.modules[name]) or ""
        if home.startswith(gettempdir()) and not home.startswith(OURS):
            del sys.modules[name]


def nodebench(*arguments, cwd=None, **environment):
    """Call it within this process, whose launchers have imported a framework once for all tests."""
    out, err = StringIO(), StringIO()
    with own_imports(), pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr(sys, "argv", ["nodebench", *map(str, arguments)])
        for name, value in environment.items():
            patch.setenv(name, value)
        patch.chdir(cwd or Path.cwd())
        with pytest.raises(SystemExit) as ended:
            cli.main()
    return subprocess.CompletedProcess(arguments, ended.value.code or 0, out.getvalue(), err.getvalue())


def script(*arguments, cwd=None, **environment):
    """Call the installed script."""
    return subprocess.run(
        [shutil.which("nodebench", path=str(Path(sys.executable).parent)), *arguments],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, **environment},
        timeout=300,
        check=False,
    )
