"""The signatures of the front ends: as `inspect` shows them, and as type checkers know them.

At run time, `with_options` generates signature and docstring from the declaration of the options.

For type checkers, a decorated function keeps its parameters and its result, except that the call
may leave out ``client``. No single type expresses that, so overloads distinguish functions by
what precedes ``client``:

- Nothing: all other parameters are checked.
- Up to three parameters: those given by position are checked; names of the others are not.
- More, or ``*args``: the result is known, the parameters are not checked.
"""

# Where two overloads match, the first one counts.
# mypy: disable-error-code="overload-overlap"

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Coroutine, Mapping
from typing import TYPE_CHECKING, Any, ParamSpec, Protocol, TypeVar, overload

from mpidask._options import AllOptions, Options

if TYPE_CHECKING:
    from distributed import Client

Function = TypeVar("Function", bound=Callable[..., Any])

#: The types of the options as written in the source, with double quotes.
_TYPES = {
    name: reference.__forward_arg__.replace("'", '"')
    for name, reference in AllOptions.__annotations__.items()
}


class _Type(str):
    """A string annotation that signatures show without quotes."""

    __slots__ = ()
    __repr__ = str.__str__


def with_options(defaults: Mapping[str, Any] | None = None) -> Callable[[Function], Function]:
    """Show every option in the signature and the docstring of a function with ``**options``.

    `defaults` are those of the function that differ from those declared.
    """

    def show(function: Function) -> Function:
        signature = inspect.signature(function)
        own = [
            p.replace(annotation=_Type(p.annotation))
            for p in signature.parameters.values()
            if p.kind is not p.VAR_KEYWORD
        ]
        fields = [
            field for field in dataclasses.fields(Options) if field.name not in signature.parameters
        ]
        default_of = {field.name: field.metadata["default"] for field in fields}
        default_of |= defaults or {}
        options = [_parameter(field, default_of[field.name]) for field in fields]
        returns = _Type(signature.return_annotation)
        function.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
            own + options, return_annotation=returns
        )
        lines = [_described(field, default_of[field.name]) for field in fields]
        function.__doc__ = _with_section(function.__doc__ or "", "Other Parameters", lines)
        return function

    return show


def _parameter(field: dataclasses.Field[Any], default: Any) -> inspect.Parameter:
    kind, type_ = inspect.Parameter.KEYWORD_ONLY, _Type(_TYPES[field.name])
    return inspect.Parameter(field.name, kind, default=default, annotation=type_)


def _described(field: dataclasses.Field[Any], default: Any) -> str:
    data = field.metadata
    return f"{field.name} : {data['kind'].description}; default {default!r}\n    {data['help']}"


def _with_section(text: str, title: str, entries: list[str]) -> str:
    """Insert a numpydoc section behind the parameters and the returned value."""
    text = inspect.cleandoc(text)
    section = "\n".join([title, "-" * len(title), *entries])
    before, raises, after = text.partition("\n\nRaises\n")
    if not raises:
        before, raises, after = text.partition("\n\nSee Also\n")
    return f"{before}\n\n{section}{raises}{after}"


P = ParamSpec("P")
Result = TypeVar("Result")
T1 = TypeVar("T1")
T2 = TypeVar("T2")
T3 = TypeVar("T3")
R = TypeVar("R", covariant=True)
A = TypeVar("A", contravariant=True)
B = TypeVar("B", contravariant=True)
C = TypeVar("C", contravariant=True)

# -- Functions that take a client. -------------------------------------------------------


class ClientFirst(Protocol[P, R]):
    def __call__(self, client: Client, *args: P.args, **kwargs: P.kwargs) -> R: ...


class ClientAfter0(Protocol[R]):
    def __call__(self, *, client: Client) -> R: ...


class ClientAfter1(Protocol[A, R]):
    def __call__(self, a: A, /, *, client: Client) -> R: ...


class ClientAfter2(Protocol[A, B, R]):
    def __call__(self, a: A, b: B, /, *, client: Client) -> R: ...


class ClientAfter3(Protocol[A, B, C, R]):
    def __call__(self, a: A, b: B, c: C, /, *, client: Client) -> R: ...


class ClientAfter4(Protocol[R]):
    def __call__(self, a: Any, b: Any, c: Any, d: Any, /, *, client: Client) -> R: ...


class ClientAfter5(Protocol[R]):
    def __call__(self, a: Any, b: Any, c: Any, d: Any, e: Any, /, *, client: Client) -> R: ...


class ClientAfter6(Protocol[R]):
    def __call__(
        self, a: Any, b: Any, c: Any, d: Any, e: Any, f: Any, /, *, client: Client
    ) -> R: ...


class ClientAfterArgs(Protocol[R]):
    def __call__(self, *args: Any, client: Client) -> R: ...


# -- The same functions, decorated: the client may be left out. --------------------------


class _Decorated(Protocol[R]):
    def __get__(self, instance: object, owner: Any = None) -> Callable[..., R]: ...


class DecoratedFirst(_Decorated[R], Protocol[P, R]):
    @overload
    def __call__(self, client: Client, *args: P.args, **kwargs: P.kwargs) -> R: ...
    @overload
    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R: ...


class Decorated0(_Decorated[R], Protocol[R]):
    def __call__(self, *, client: Client = ...) -> R: ...


class Decorated1(_Decorated[R], Protocol[A, R]):
    @overload
    def __call__(self, a: A, /, client: Client = ...) -> R: ...
    @overload
    def __call__(self, *, client: Client = ..., **kwargs: Any) -> R: ...


class Decorated2(_Decorated[R], Protocol[A, B, R]):
    @overload
    def __call__(self, a: A, b: B, /, client: Client = ...) -> R: ...
    @overload
    def __call__(self, a: A, /, *, client: Client = ..., **kwargs: Any) -> R: ...
    @overload
    def __call__(self, *, client: Client = ..., **kwargs: Any) -> R: ...


class Decorated3(_Decorated[R], Protocol[A, B, C, R]):
    @overload
    def __call__(self, a: A, b: B, c: C, /, client: Client = ...) -> R: ...
    @overload
    def __call__(self, a: A, b: B, /, *, client: Client = ..., **kwargs: Any) -> R: ...
    @overload
    def __call__(self, a: A, /, *, client: Client = ..., **kwargs: Any) -> R: ...
    @overload
    def __call__(self, *, client: Client = ..., **kwargs: Any) -> R: ...


# -- Decorators. -------------------------------------------------------------------------


class Decorator(Protocol):
    """The decorator `mpi_dask_main(**options)`, with ``exit=True``."""

    @overload
    def __call__(self, function: ClientFirst[P, Result], /) -> DecoratedFirst[P, Result]: ...
    @overload
    def __call__(self, function: ClientAfterArgs[Result], /) -> Callable[..., Result]: ...
    @overload
    def __call__(self, function: ClientAfter6[Result], /) -> Callable[..., Result]: ...
    @overload
    def __call__(self, function: ClientAfter5[Result], /) -> Callable[..., Result]: ...
    @overload
    def __call__(self, function: ClientAfter4[Result], /) -> Callable[..., Result]: ...
    @overload
    def __call__(
        self, function: ClientAfter3[T1, T2, T3, Result], /
    ) -> Decorated3[T1, T2, T3, Result]: ...
    @overload
    def __call__(self, function: ClientAfter2[T1, T2, Result], /) -> Decorated2[T1, T2, Result]: ...
    @overload
    def __call__(self, function: ClientAfter1[T1, Result], /) -> Decorated1[T1, Result]: ...
    @overload
    def __call__(self, function: ClientAfter0[Result], /) -> Decorated0[Result]: ...
    @overload
    def __call__(self, function: Callable[P, Result], /) -> Callable[P, Result]: ...


class DecoratorOnAllRanks(Protocol):
    """The same with ``exit=False``: calls return None on all ranks but the client's."""

    @overload
    def __call__(
        self, function: ClientFirst[P, Coroutine[Any, Any, Result]], /
    ) -> DecoratedFirst[P, Coroutine[Any, Any, Result | None]]: ...
    @overload
    def __call__(self, function: ClientFirst[P, Result], /) -> DecoratedFirst[P, Result | None]: ...
    @overload
    def __call__(
        self, function: ClientAfterArgs[Coroutine[Any, Any, Result]], /
    ) -> Callable[..., Coroutine[Any, Any, Result | None]]: ...
    @overload
    def __call__(self, function: ClientAfterArgs[Result], /) -> Callable[..., Result | None]: ...
    @overload
    def __call__(
        self, function: ClientAfter6[Coroutine[Any, Any, Result]], /
    ) -> Callable[..., Coroutine[Any, Any, Result | None]]: ...
    @overload
    def __call__(self, function: ClientAfter6[Result], /) -> Callable[..., Result | None]: ...
    @overload
    def __call__(
        self, function: ClientAfter5[Coroutine[Any, Any, Result]], /
    ) -> Callable[..., Coroutine[Any, Any, Result | None]]: ...
    @overload
    def __call__(self, function: ClientAfter5[Result], /) -> Callable[..., Result | None]: ...
    @overload
    def __call__(
        self, function: ClientAfter4[Coroutine[Any, Any, Result]], /
    ) -> Callable[..., Coroutine[Any, Any, Result | None]]: ...
    @overload
    def __call__(self, function: ClientAfter4[Result], /) -> Callable[..., Result | None]: ...
    @overload
    def __call__(
        self, function: ClientAfter3[T1, T2, T3, Coroutine[Any, Any, Result]], /
    ) -> Decorated3[T1, T2, T3, Coroutine[Any, Any, Result | None]]: ...
    @overload
    def __call__(
        self, function: ClientAfter3[T1, T2, T3, Result], /
    ) -> Decorated3[T1, T2, T3, Result | None]: ...
    @overload
    def __call__(
        self, function: ClientAfter2[T1, T2, Coroutine[Any, Any, Result]], /
    ) -> Decorated2[T1, T2, Coroutine[Any, Any, Result | None]]: ...
    @overload
    def __call__(
        self, function: ClientAfter2[T1, T2, Result], /
    ) -> Decorated2[T1, T2, Result | None]: ...
    @overload
    def __call__(
        self, function: ClientAfter1[T1, Coroutine[Any, Any, Result]], /
    ) -> Decorated1[T1, Coroutine[Any, Any, Result | None]]: ...
    @overload
    def __call__(self, function: ClientAfter1[T1, Result], /) -> Decorated1[T1, Result | None]: ...
    @overload
    def __call__(
        self, function: ClientAfter0[Coroutine[Any, Any, Result]], /
    ) -> Decorated0[Coroutine[Any, Any, Result | None]]: ...
    @overload
    def __call__(self, function: ClientAfter0[Result], /) -> Decorated0[Result | None]: ...
    @overload
    def __call__(
        self, function: Callable[P, Coroutine[Any, Any, Result]], /
    ) -> Callable[P, Coroutine[Any, Any, Result | None]]: ...
    @overload
    def __call__(self, function: Callable[P, Result], /) -> Callable[P, Result | None]: ...
