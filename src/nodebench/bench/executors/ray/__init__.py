"""Does the work of a run on the nodes of a Ray cluster, https://docs.ray.io.

Ray schedules, starts processes and notices deaths. The rest is here: joining a cluster (`connection`), which of its
nodes can do the work (`inspection`, `nodes`), what is done on a node (`remote`), what is known of it meanwhile
(`tracking`), and handing out work and taking results (`executor`). Nothing else of nodebench imports Ray.
"""

import os
from importlib.util import find_spec

from nodebench.errors import UserError

# Read by Ray when it is imported. It prints to standard output what happens to its nodes; our own events tell that, and
# standard output is for records.
os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", ".*")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")


def require_ray() -> None:
    """Check that Ray can be imported.

    Raises:
        UserError: If it is not installed.
    """
    if find_spec("ray") is None:
        raise UserError("Ray is not installed; install with: pip install 'nodebench[cluster]'")
