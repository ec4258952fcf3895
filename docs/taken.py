"""Tells mkdocstrings of functions that take a class of options: what `inspect` tells of them, as `help` does."""

import inspect

import griffe


class Taken(griffe.Extension):
    """Gives such a function the parameters and the docstring that it has when it is called."""

    def on_function(self, *, func, **others):
        """Ask the function itself, where its source only names the class."""
        del others
        if any(str(decorator.value).startswith("taking(") for decorator in func.decorators):
            found = griffe.dynamic_import(func.path)
            func.docstring.value = inspect.getdoc(found)
            func.parameters = griffe.Parameters(*map(_parameter, inspect.signature(found).parameters.values()))


def _parameter(told):
    """A parameter; a default that is made anew each time is not told of."""
    default = None if told.default is told.empty else "..." if "factory" in repr(told.default) else repr(told.default)
    annotation = told.annotation if isinstance(told.annotation, str) else inspect.formatannotation(told.annotation)
    kind = griffe.ParameterKind(told.kind.description)
    return griffe.Parameter(
        told.name, annotation=annotation.replace("collections.abc.", ""), kind=kind, default=default
    )
