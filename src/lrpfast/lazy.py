"""Properties that are computed on first access."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar, overload

Value = TypeVar("Value")


class lazy_property(Generic[Value]):  # noqa: N801 - it is used as the decorator that it stands in for
    """`functools.cached_property` without the lock that it has before Python 3.12.

    All objects of a class share that lock, and a process that is forked while another thread has it waits forever.
    Without it, two threads may both compute the value, which is the same.
    """

    def __init__(self, compute: Callable[[Any], Value]) -> None:
        self.compute = compute
        self.__doc__ = compute.__doc__

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    @overload
    def __get__(self, instance: None, owner: type) -> lazy_property[Value]: ...
    @overload
    def __get__(self, instance: object, owner: type) -> Value: ...
    def __get__(self, instance: Any, owner: type) -> lazy_property[Value] | Value:
        if instance is None:
            return self
        value: Value = self.compute(instance)
        instance.__dict__[self.name] = value  # the instance's attribute takes precedence from now on
        return value
