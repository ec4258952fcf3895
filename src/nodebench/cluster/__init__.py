"""The work of a run on the machines of a Ray cluster, https://docs.ray.io.

Ray schedules, starts processes and notices deaths. Here is what is left: which nodes may do the work (`inspection`,
`nodes`, `session`), what is sent to them (`errand`), and what becomes of it (`executor`). Nothing else of nodebench
imports Ray.
"""

import os
from importlib.util import find_spec

from nodebench.errors import UserError

# Read by Ray when it is imported. It prints to standard output what befalls its nodes; that is told by our own events,
# and standard output is for records.
os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", ".*")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")


def require_ray() -> None:
    """See that Ray can be imported.

    Raises:
        UserError: If it is not installed.
    """
    if find_spec("ray") is None:
        raise UserError("Ray is not installed; install with: pip install 'nodebench[cluster]'")
