"""A value and the type it is annotated with → the value as that type, or an error that names both. The door for
arguments from Python and for configs from JSON; what values mean is looked at where they are used."""

import dataclasses
import functools
import inspect
import numbers
import os
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, ParamSpec, TypeVar

from wideresnet.errors import UsageError

P = ParamSpec("P")
R = TypeVar("R")

_WORDS: dict[Any, str] = {
    int: "a whole number",
    float: "a number",
    str: "text",
    bool: "True or False",
    Path: "a path",
    types.NoneType: "None",
}


def checked(function: Callable[P, R]) -> Callable[P, R]:
    """`function`, given its arguments as their annotations have them. Raises UsageError naming one that cannot be."""
    inner: Callable[..., R] = function

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        kinds, signature = typing.get_type_hints(function), inspect.signature(function)
        given = signature.bind(*args, **kwargs)
        for name, value in given.arguments.items():
            if signature.parameters[name].kind is inspect.Parameter.VAR_KEYWORD:
                options = typing.get_type_hints(typing.get_args(kinds[name])[0])
                given.arguments[name] = {key: fitted(one, options.get(key), key) for key, one in value.items()}
            else:
                given.arguments[name] = fitted(value, kinds.get(name), name)
        return inner(*given.args, **given.kwargs)

    return call


def fitted(value: Any, kind: Any, name: str) -> Any:
    """`value` as `kind`: numpy's and torch's numbers as Python's, a whole float as an int, any iterable as a tuple (so
    it is run through once), one text where several are expected as the only one, a mapping as a dataclass, and for a
    dataclass what has its fields.

    Which of a Literal's texts is left to who knows more. An int stays one where a float is expected. Kinds that are
    not named here are not looked at. Raises UsageError with `name`, what was given and what was expected.
    """
    found = _fitted(value, kind, name)
    if found is _UNFIT:
        shown = " ".join(repr(value).split())
        shown = shown[:60] + "…" * (len(shown) > 60)
        raise UsageError(f"{name}{'=' * bool(name)}{shown}: expected {_words(kind)}")
    return found


_UNFIT: Any = object()


def _fitted(value: Any, kind: Any, name: str) -> Any:  # noqa: PLR0911 - a row a kind
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return next((found for one in inner if (found := _fitted(value, one, name)) is not _UNFIT), _UNFIT)
    if origin in (tuple, Sequence):
        return _several(value, inner[0], name)
    if origin is Mapping:
        fits = isinstance(value, Mapping)
        return {key: fitted(one, inner[1], f"{name}.{key}") for key, one in value.items()} if fits else _UNFIT
    if dataclasses.is_dataclass(kind):
        if isinstance(value, Mapping):
            return _made(value, kind, name)
        fits = not isinstance(value, type) and all(hasattr(value, field.name) for field in dataclasses.fields(kind))
        return value if fits else _UNFIT
    if kind in (bool, int, float):
        return _number(value, kind)
    if origin is Literal or kind is str:
        return value if isinstance(value, str) else _UNFIT
    if kind is Path:
        return Path(value) if isinstance(value, os.PathLike) else _UNFIT
    if isinstance(kind, type) and kind is not Any:
        return value if isinstance(value, kind) else _UNFIT
    return value


def _number(value: Any, kind: Any) -> Any:
    if getattr(value, "ndim", None) == 0 and hasattr(value, "item"):
        value = value.item()
    if kind is bool or isinstance(value, bool):
        return value if kind is bool and isinstance(value, bool) else _UNFIT
    if kind is int and isinstance(value, float) and value.is_integer():
        return int(value)
    if not isinstance(value, numbers.Integral if kind is int else numbers.Real):
        return _UNFIT
    return value if isinstance(value, int | float) else kind(value)


def _several(value: Any, kind: Any, name: str) -> Any:
    if isinstance(value, str) and kind is str:
        return (value,)
    if isinstance(value, str | bytes | Mapping) or not hasattr(value, "__iter__"):
        return _UNFIT
    if isinstance(value, set | frozenset):
        if kind is not str:  # numbers come in an order
            return _UNFIT
        value = sorted(value, key=str)  # a set's own order is another one in each process
    try:
        return tuple(fitted(one, kind, f"{name}[{i}]") for i, one in enumerate(value))
    except TypeError:  # an array without dimensions
        return _UNFIT


def _made(values: Mapping[str, Any], kind: Any, whole: str) -> Any:
    """A dataclass from its fields; those that have a default may be absent."""
    kinds, within = typing.get_type_hints(kind), f"{whole}." if whole else ""
    for name in values:
        if name not in kinds:
            raise UsageError(f"{within}{name}: no field that this version knows; was it written by a newer one?")
    for field in dataclasses.fields(kind):
        defaults = (field.default, field.default_factory)
        if field.name not in values and all(default is dataclasses.MISSING for default in defaults):
            raise UsageError(f"{within}{field.name}: missing")
    return kind(**{name: fitted(value, kinds[name], f"{within}{name}") for name, value in values.items()})


def _words(kind: Any) -> str:
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(dict.fromkeys(map(_words, inner)))
    if origin in (tuple, Sequence):
        return {int: "whole numbers, as (60, 120)", float: "numbers, as (0.5, 0.5)"}.get(inner[0], "several texts")
    if origin is Literal:
        return f"one of {', '.join(inner)}"
    if origin is Mapping:
        return "fields with names"
    if dataclasses.is_dataclass(kind):
        return f"a {getattr(kind, '__name__', kind)} with its fields"
    return _WORDS.get(kind, f"a {getattr(kind, '__name__', kind)}")
