"""What type checkers know of a decorated function; at run time, nobody imports this.

A function keeps its parameters and its result, but ``client`` may be left out. There is no
type that says so of every function. So functions are told apart by what stands before
``client``, which the call may leave out:

- ``client`` is the first parameter: all the others are checked.
- Up to three parameters before it: those given by position are checked, and the names of
  the others are not.
- More, or ``*args``: the result is known, the parameters are not checked.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ParamSpec, Protocol, TypeVar, overload

from distributed import Client

P = ParamSpec("P")
R = TypeVar("R", covariant=True)
A = TypeVar("A", contravariant=True)
B = TypeVar("B", contravariant=True)
C = TypeVar("C", contravariant=True)

# -- Functions as they are written. --------------------------------------------------


class First(Protocol[P, R]):
    def __call__(self, client: Client, *args: P.args, **kwargs: P.kwargs) -> R: ...


class Behind0(Protocol[R]):
    def __call__(self, *, client: Client) -> R: ...


class Behind1(Protocol[A, R]):
    def __call__(self, a: A, /, *, client: Client) -> R: ...


class Behind2(Protocol[A, B, R]):
    def __call__(self, a: A, b: B, /, *, client: Client) -> R: ...


class Behind3(Protocol[A, B, C, R]):
    def __call__(self, a: A, b: B, c: C, /, *, client: Client) -> R: ...


class Behind4(Protocol[R]):
    def __call__(self, a: Any, b: Any, c: Any, d: Any, /, *, client: Client) -> R: ...


class Behind5(Protocol[R]):
    def __call__(self, a: Any, b: Any, c: Any, d: Any, e: Any, /, *, client: Client) -> R: ...


class Behind6(Protocol[R]):
    def __call__(
        self, a: Any, b: Any, c: Any, d: Any, e: Any, f: Any, /, *, client: Client
    ) -> R: ...


class BehindMany(Protocol[R]):
    def __call__(self, *args: Any, client: Client) -> R: ...


# -- The same functions, decorated. --------------------------------------------------


class _Main(Protocol[R]):
    def __get__(self, instance: object, owner: Any = None) -> Callable[..., R]: ...


class MainFirst(_Main[R], Protocol[P, R]):
    @overload
    def __call__(self, client: Client, *args: P.args, **kwargs: P.kwargs) -> R: ...
    @overload
    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R: ...


class Main0(_Main[R], Protocol[R]):
    def __call__(self, *, client: Client = ...) -> R: ...


class Main1(_Main[R], Protocol[A, R]):
    @overload
    def __call__(self, a: A, /, client: Client = ...) -> R: ...
    @overload
    def __call__(self, *, client: Client = ..., **kwargs: Any) -> R: ...


class Main2(_Main[R], Protocol[A, B, R]):
    @overload
    def __call__(self, a: A, b: B, /, client: Client = ...) -> R: ...
    @overload
    def __call__(self, a: A, /, *, client: Client = ..., **kwargs: Any) -> R: ...
    @overload
    def __call__(self, *, client: Client = ..., **kwargs: Any) -> R: ...


class Main3(_Main[R], Protocol[A, B, C, R]):
    @overload
    def __call__(self, a: A, b: B, c: C, /, client: Client = ...) -> R: ...
    @overload
    def __call__(self, a: A, b: B, /, *, client: Client = ..., **kwargs: Any) -> R: ...
    @overload
    def __call__(self, a: A, /, *, client: Client = ..., **kwargs: Any) -> R: ...
    @overload
    def __call__(self, *, client: Client = ..., **kwargs: Any) -> R: ...
