"""Writes what the pages of docs/ have from the code: quantities, bands, commands, backends, tasks, models, solvers.

It stands between two comments on a page, `<!-- table NAME -->` and `<!-- end -->`, and is read there on GitHub too.
"""

import re
from pathlib import Path

import typer

from nodebench import installed, registry
from nodebench.cli import app
from nodebench.results.quantities import CATALOGUE, bands, how_taken

FOLDER = Path(__file__).parent
SAID = """::: {}
    options:
      members: false
      show_bases: false
      show_root_heading: false
      show_root_toc_entry: false"""

MARKED = re.compile(r"(<!-- table ([\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def table(titles, rows):
    """A table in Markdown; a bar within a cell is no end of it."""
    lines = (f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in rows)
    return "\n".join([f"| {' | '.join(titles)} |", f"|{'---|' * len(titles)}", *lines])


def quantities():
    """Every quantity of a record."""
    rows = [(f"`{name}`", said.unit, said.meaning, said.better) for name, said in CATALOGUE.items()]
    return table(("in a record", "unit", "what it is", "better"), rows)


def named(info):
    """A plugin with its options and their defaults; one that cannot be made without is made by another option."""
    options = "" if info.required else ", ".join(f"{name}={default}" for name, default in info.options.items())
    return f"`{info.name}[{options}]`" if options else f"`{info.name}`"


def own(kind):
    """The plugins of this package."""
    return [registry.describe(kind, name) for name in registry.names(kind) if registry.is_own(kind, name)]


def backends():
    """A table of all backends, and of each what its docstring says."""
    known = own("backend")
    parts = [table(("backend", "framework", "what it is"), [(named(i), i.framework, i.summary) for i in known])]
    for info in known:
        parts += [f"## `{info.name}`", SAID.format(info.target.replace(":", "."))]
    return "\n\n".join(parts)


def tasks():
    """All tasks, with their options."""
    told = {row["name"]: row for row in installed.tasks()}
    rows = [
        (named(info), told[info.name].get("default model", ""), told[info.name].get("metric", ""), info.summary)
        for info in own("task")
    ]
    return table(("task", "default model", "metric", "what it is"), rows)


def models():
    """All models of our tasks."""
    ours = {info.name for info in own("task")}
    rows = [(f"`{r['name']}`", r["task"], r["frameworks"], r["backend"], r["summary"]) for r in installed.models()]
    return table(("model", "task", "frameworks", "backend", "what it is"), [row for row in rows if row[1] in ours])


def solvers():
    """All solvers."""
    rows = [(f"`{row['name']}`", row["order"], row["stages"], row["steps"]) for row in installed.solvers()]
    return table(("solver", "order", "stages", "steps"), rows)


def commands():
    """What `--help` says of each command."""
    return "\n\n".join(_helps("nodebench", typer.main.get_command(app)))


def _helps(name, command):
    for each, found in getattr(command, "commands", {}).items():
        yield from _helps(f"{name} {each}", found)
    if not hasattr(command, "commands"):
        yield f"## `{name}`\n\n{command.help.strip()}"
        rows = [_row(parameter) for parameter in command.params]
        if rows:
            yield table(("option", "meaning", "default"), rows)


def _row(parameter):
    spelled = ", ".join(f"`{option}`" for option in (*parameter.opts, *parameter.secondary_opts))
    if parameter.param_type_name == "argument":
        spelled = f"`{(parameter.metavar or parameter.name).strip('[].').upper()}`"
    default = parameter.default
    shown = "" if default is None or callable(default) or isinstance(default, bool | list) else f"`{default}`"
    return spelled, (parameter.help or "").replace(r"\[", "["), shown


TABLES = {
    "how-taken": lambda: table(("figure", "in a record", "how it is taken"), how_taken()),
    "bands": lambda: table(("figure", "band", "because"), bands()),
    "quantities": quantities,
    "backends": backends,
    "tasks": tasks,
    "models": models,
    "solvers": solvers,
    "commands": commands,
}


def updated(text):
    """A page with each table as it should be."""
    return MARKED.sub(lambda found: f"{found[1]}\n{TABLES[found[2]]()}\n\n{found[3]}", text)


if __name__ == "__main__":
    for page in sorted(FOLDER.rglob("*.md")):
        page.write_text(updated(page.read_text(encoding="utf-8")), encoding="utf-8")
