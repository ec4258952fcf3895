"""The command line, called within the process of the tests or as the installed script; what several modules share."""

import os
import shutil
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path

import pytest

from nodebench import cli, importing


def nodebench(*arguments, cwd=None, **environment):
    """Call it within this process, whose launchers have imported a framework once for all tests."""
    out, err = StringIO(), StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr(sys, "argv", ["nodebench", *map(str, arguments)])
        patch.setattr(sys, "path", list(sys.path))
        patch.setattr(importing, "_folders", [])
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
