"""What a gradient costs in the memory that another method takes: methods with a knob against those without.

`checkpoint[checkpoints=C]` takes less memory and more time the smaller C is; `reversible` takes what it takes. Which of
the two is faster is a question only at the same memory.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from math import inf

from nodebench.registry import parse, spelled
from nodebench.results.equal_cost import Estimate, time_ratio
from nodebench.results.record import Record
from nodebench.stats import RatioVerdict

ALIKE = 1.01
"""Peaks of memory within this factor of each other are the same: as much as the gate allows them to differ."""


@dataclass(frozen=True)
class Family:
    """Backends that differ in one numeric option alone, on which their memory depends.

    Attributes:
        backend: The backend, with the options that all have in common.
        option: The option, for example `checkpoints`.
        members: Their records, from the least peak of memory to the largest; the one that does not name the option
            among them.
    """

    backend: str
    option: str
    members: tuple[Record, ...]

    @property
    def name(self) -> str:
        """What the family is called: `checkpoint[checkpoints]`."""
        base, options = parse(self.backend)
        return f"{base}[{','.join(sorted([*(f'{key}={value}' for key, value in options.items()), self.option]))}]"


@dataclass(frozen=True)
class CostAtMemory:
    """The fastest member of a family that takes no more memory than a method without a knob, or as much within 1 %.

    Attributes:
        fixed: The method without a knob.
        family: The family.
        member: Its fastest member with at most the memory of `fixed`, by the estimates of their times; None where none
            is that small.
        ratio: Time of the member relative to that of `fixed`; missing without a member.
    """

    fixed: Record
    family: Family
    member: Record | None
    ratio: Estimate

    @property
    def verdict(self) -> RatioVerdict | None:
        """Whether the member is faster or slower than the fixed method; None without a ratio."""
        return self.ratio.verdict


def families(records: Sequence[Record]) -> list[Family]:
    """The families with a knob for memory among records of one comparison.

    Args:
        records: Records that differ in the backend alone; those that may not be ranked, or lack peak memory, are left
            out.
    """
    known = [record for record in records if record.ok and record.backend and record.peak_memory_bytes]
    found: dict[tuple[str, str], list[Record]] = {}
    for record in known:
        name, options = parse(str(record.backend))
        for option, value in options.items():
            if _is_number(value):
                rest = {key: other for key, other in options.items() if key != option}
                found.setdefault((spelled(name, rest), option), []).append(record)
    by_name = {record.backend: record for record in known}
    made = []
    for (name, option), members in found.items():
        everyone = [*members, by_name[name]] if name in by_name else members
        ordered = sorted(everyone, key=_peak)
        if len(ordered) > 1 and _peak(ordered[-1]) > ALIKE * _peak(ordered[0]):
            made.append(Family(name, option, tuple(ordered)))
    return made


def equal_memory(records: Sequence[Record]) -> list[CostAtMemory]:
    """For each method without a knob and each family, who is fastest within the memory of the former.

    The ratio of two methods is that of their ratios to the control they were both timed with. Their errors are taken
    for independent, which widens the interval: what they share is the control's.

    Args:
        records: Records that differ in the backend alone and were timed in turns, the control among them. Those that
            may not be ranked, or lack time or peak memory, are left out.
    """
    timed = [record for record in records if record.ok and record.step_s is not None and record.peak_memory_bytes]
    with_knob = families(timed)
    members = {record.cell_id for family in with_knob for record in family.members}
    fixed: dict[Hashable, Record] = {}
    for record in sorted((record for record in timed if record.cell_id not in members), key=_relative):
        # Of siblings whose number leaves the memory as it is, the fastest stands for all.
        fixed.setdefault(_without_numbers(str(record.backend)), record)
    return [_within(record, family) for record in sorted(fixed.values(), key=_peak) for family in with_knob]


def _within(fixed: Record, family: Family) -> CostAtMemory:
    fitting = [record for record in family.members if _peak(record) <= ALIKE * _peak(fixed)]
    if not fitting:
        least = family.members[0]
        reason = f"it needs at least {_peak(least) / 2**20:.4g} MiB, with `{least.backend}`."
        return CostAtMemory(fixed, family, None, Estimate(None, reason=reason))
    best = min(fitting, key=_relative)
    return CostAtMemory(fixed, family, best, time_ratio(best, fixed))


def _peak(record: Record) -> int:
    return record.peak_memory_bytes or 0


def _relative(record: Record) -> float:
    """Time relative to the control's; infinite where it is not known."""
    return 1.0 if record.control is None else record.ratio or inf


def _without_numbers(backend: str) -> Hashable:
    name, options = parse(backend)
    return (name, *sorted((key, value) for key, value in options.items() if not _is_number(value)))


def _is_number(value: str) -> bool:
    try:
        float(value)
    except ValueError:
        return False
    return True
