"""What has become worse: runs, baseline files and versions compared, and baselines kept."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

from nodebench.bench.matrix import plan
from nodebench.bench.request import Request
from nodebench.bench.turns import THIS_VERSION, TwoVersions, compare_versions, only_there, present
from nodebench.bench.versions import Version, version_of_python, version_of_ref, version_of_wheel
from nodebench.errors import UserError
from nodebench.measuring import Watcher, settings_of
from nodebench.options import GateOptions, default_store, part_of
from nodebench.results.baseline import Baseline
from nodebench.results.finding import Gate
from nodebench.results.gate import compare
from nodebench.results.ratchet import Update, update
from nodebench.results.sources import find, read_baseline_file, read_run
from nodebench.results.store import Store, existing
from nodebench.results.thresholds import Thresholds, read_thresholds


def compared(options: GateOptions, watcher: Watcher | None = None) -> Gate:
    """As `nodebench.api.gate`, with what is told of it."""
    slowdown = None if options.max_slowdown is None else str(options.max_slowdown)
    thresholds = read_thresholds(None if options.config is None else Path(options.config), slowdown)
    if options.old is None:
        return _measure_against(options, thresholds, watcher or Watcher())
    old, new = (_figures(what, options.store) for what in (options.old, options.new))
    return compare(old, new, thresholds)


def _measure_against(options: GateOptions, thresholds: Thresholds, watcher: Watcher) -> Gate:
    """Measure a request in turns with another version, and compare the two."""
    request = part_of(Request, options)
    known = present(request)
    found = plan(known) if known == request else None  # so that what is wrong is told before anything is built
    # Absolute: workers of the other version may run in another folder.
    store = Store(Path(options.store).resolve())
    with _other_version(options) as version:
        removed = only_there(request, version)
        if not known.tasks or not (known.backends or not request.backends):
            return TwoVersions(removed, Baseline(THIS_VERSION, {}, {})).gate(thresholds)
        found = found or plan(known)
        if found.broken:
            watcher.broken(found.broken)
        with watcher.progress(len(found.cells)) as notify:
            settings = settings_of(options, here=True)
            both = compare_versions(found, version, store, settings, notify, watcher.command)
        return replace(both, old=both.old.joined(removed)).gate(thresholds)


def _other_version(options: GateOptions) -> AbstractContextManager[Version]:
    if options.against_ref is not None:
        return version_of_ref(options.against_ref)
    if options.against_wheel is not None:
        return version_of_wheel(Path(options.against_wheel))
    return version_of_python(str(options.against_python))


def _figures(what: str | Path | Baseline, store: str | Path) -> Baseline:
    return what if isinstance(what, Baseline) else find(str(what), lambda: existing(store))


def baseline(run_ids: Sequence[str] = ("latest",), *, store: str | Path | None = None) -> Baseline:
    """The figures of runs, to be kept; of a cell in several, the last holds.

    Raises:
        UserError: If there is no such run or store.
    """
    opened = existing(store or default_store())
    first, *others = [read_run(opened, run_id) for run_id in run_ids]
    for other in others:
        first = first.joined(other)
    return first


def update_baseline(
    path: str | Path,
    candidate: str = "latest",
    *,
    accept_regressions: bool = False,
    max_slowdown: str | None = None,
    config: str | Path | None = None,
    store: str | Path | None = None,
) -> Update:
    """Take over into a baseline file what has become better and what is new.

    Args:
        path: The file.
        candidate: A run, or a file.
        accept_regressions: Whether to take over what has become worse, too.
        max_slowdown: As for `gate`.
        config: As for `gate`.
        store: Results store.

    Raises:
        UserError: If there is no such file or run, or the file cannot be written.
    """
    thresholds = read_thresholds(None if config is None else Path(config), max_slowdown)
    old, new = read_baseline(Path(path)), _figures(candidate, store or default_store())
    found = update(old, new, compare(old, new, thresholds), accept_regressions=accept_regressions)
    if found.taken:
        write_baseline(found.baseline, Path(path))
    return found


def read_baseline(path: Path) -> Baseline:
    """The figures in a baseline file.

    Raises:
        UserError: If there is none, or it cannot be read.
    """
    if not path.is_file():
        raise UserError(f"there is no baseline `{path}`; `nodebench baseline save -o {path}` writes one.")
    return read_baseline_file(path)


def write_baseline(figures: Baseline, path: Path) -> None:
    """Write figures into a baseline file.

    Raises:
        UserError: If it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(figures.dumps(), encoding="utf-8")
    except OSError as error:
        raise UserError(f"`{path}` cannot be written: {error.strerror or error}.") from error
