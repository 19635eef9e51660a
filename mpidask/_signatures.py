"""The options as parameters of functions, made from their declaration."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from mpidask._options import Options
from mpidask._typing import AllOptions

Function = TypeVar("Function", bound=Callable[..., Any])


#: The types of the options, as they are written in the source, but for the quotes.
_TYPES = {
    name: reference.__forward_arg__.replace("'", '"')
    for name, reference in AllOptions.__annotations__.items()
}


class _Type(str):
    """An annotation in words, which signatures show without quotes."""

    __slots__ = ()
    __repr__ = str.__str__


def with_options(defaults: Mapping[str, Any] | None = None) -> Callable[[Function], Function]:
    """Show every option in the signature and the docstring of a function with ``**options``.

    Parameters
    ----------
    defaults : mapping, optional
        Defaults of the function that differ from those declared.
    """

    def show(function: Function) -> Function:
        signature = inspect.signature(function)
        own = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
        fields = [
            field for field in dataclasses.fields(Options) if field.name not in signature.parameters
        ]
        default_of = {field.name: field.metadata["default"] for field in fields}
        default_of |= defaults or {}
        options = [_parameter(field, default_of[field.name]) for field in fields]
        parameters = [p.replace(annotation=_annotation(p)) for p in own] + options
        returns = _Type(signature.return_annotation)
        function.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
            parameters, return_annotation=returns
        )
        lines = [_described(field, default_of[field.name]) for field in fields]
        function.__doc__ = _with_section(function.__doc__ or "", "Other Parameters", lines)
        return function

    return show


def _parameter(field: dataclasses.Field[Any], default: Any) -> inspect.Parameter:
    return inspect.Parameter(
        field.name,
        inspect.Parameter.KEYWORD_ONLY,
        default=default,
        annotation=_Type(_TYPES[field.name]),
    )


def _annotation(parameter: inspect.Parameter) -> Any:
    return _Type(parameter.annotation)


def _described(field: dataclasses.Field[Any], default: Any) -> str:
    data = field.metadata
    return f"{field.name} : {data['kind'].words}; default {default!r}\n    {data['help']}"


def _with_section(text: str, title: str, entries: list[str]) -> str:
    """Put a section of numpydoc's behind the parameters and the value returned."""
    text = inspect.cleandoc(text)
    section = "\n".join([title, "-" * len(title), *entries])
    before, raises, after = text.partition("\n\nRaises\n")
    if not raises:
        before, raises, after = text.partition("\n\nSee Also\n")
    return f"{before}\n\n{section}{raises}{after}"
