"""The gate: runs, baseline files or two versions compared, and a baseline file kept up to date."""

from contextlib import AbstractContextManager
from pathlib import Path

from nodebench.bench.matrix import plan
from nodebench.bench.request import Request
from nodebench.gating.baseline import Baseline, find, read_baseline, write_baseline
from nodebench.gating.compare import BaselineUpdate, GateResult, compare, update
from nodebench.gating.thresholds import Thresholds, read_thresholds
from nodebench.gating.turns import THIS_VERSION, available, measure_versions, only_there
from nodebench.gating.versions import Version, version_of_python, version_of_ref, version_of_wheel
from nodebench.measuring import Watcher, run_settings
from nodebench.options import GateOptions, part_of
from nodebench.results.store import Store


def compared(options: GateOptions, watcher: Watcher | None = None) -> GateResult:
    """As `nodebench.api.gate`, with what is told of it."""
    slowdown = None if options.max_slowdown is None else str(options.max_slowdown)
    thresholds = read_thresholds(None if options.config is None else Path(options.config), slowdown)
    if options.old is None:
        return _measured(options, thresholds, watcher or Watcher())
    return compare(find(options.old, options.store), find(options.new, options.store), thresholds)


def _measured(options: GateOptions, thresholds: Thresholds, watcher: Watcher) -> GateResult:
    """Measure a request in turns with another version, and compare the two."""
    request = part_of(Request, options)
    known = available(request)
    found = plan(known) if known == request else None  # so that what is wrong is told before anything is built
    # Absolute: workers of the other version may run in another folder.
    store = Store(Path(options.store).resolve())
    with _other_version(options) as version:
        removed = only_there(request, version)
        if not known.tasks or not (known.backends or not request.backends):
            return compare(removed, Baseline(THIS_VERSION, {}), thresholds)
        found = found or plan(known)
        if found.broken:
            watcher.broken(found.broken)
        with watcher.progress(len(found.cells)) as notify:
            settings = run_settings(options, here=True)
            both = measure_versions(found, version, store, settings, notify, watcher.command)
        return compare(both.old.joined(removed), both.new, thresholds, both.refused, both.unloadable)


def _other_version(options: GateOptions) -> AbstractContextManager[Version]:
    if options.against_ref is not None:
        return version_of_ref(options.against_ref)
    if options.against_wheel is not None:
        return version_of_wheel(Path(options.against_wheel))
    return version_of_python(str(options.against_python))


def update_baseline(
    path: Path,
    candidate: str,
    *,
    accept_regressions: bool,
    max_slowdown: str | None,
    config: Path | None,
    store: Path,
) -> BaselineUpdate:
    """Take over into a baseline file what has become better and what is new.

    Args:
        path: The file.
        candidate: A run, or a file.
        accept_regressions: Whether to take over what has become worse, too.
        max_slowdown: As for `compared`.
        config: As for `compared`.
        store: Results store.

    Raises:
        UserError: If there is no such file or run, or the file cannot be written.
    """
    thresholds = read_thresholds(config, max_slowdown)
    old, new = read_baseline(path), find(candidate, store)
    found = update(old, new, compare(old, new, thresholds), accept_regressions=accept_regressions)
    if found.taken:
        write_baseline(found.baseline, path)
    return found
