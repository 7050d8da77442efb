"""Coordinates that are times, of any calendar of the CF conventions: periods, seasons, months."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from ..errors import InputError
from .metadata import Coord
from .optional_import import import_optional

#: By their months' first letters, in their order.
SEASONS = ("DJF", "MAM", "JJA", "SON")
#: The parts of a time by which samples are grouped and selected, in the order in which messages name them.
PARTS: dict[str, Callable[[Any], Any]] = {
    "season": lambda date: SEASONS[date.month % 12 // 3],
    "month": lambda date: date.month,
    "year": lambda date: date.year,
    "day": lambda date: date.day,
    "dayofyear": lambda date: date.dayofyr,
    "hour": lambda date: date.hour,
}
#: The units and calendar of dates in memory.
_IN_MEMORY = "microseconds since 1970-01-01"
_DATE = re.compile(
    r"(?P<year>-?\d{1,4})(-(?P<month>\d{1,2})(-(?P<day>\d{1,2})"
    r"([T ](?P<hour>\d{1,2})(:(?P<minute>\d{2})(:(?P<second>\d{2}))?)?)?)?)?",
    re.ASCII,
)
_FIELDS = ("year", "month", "day", "hour", "minute", "second")
#: Two names of one calendar.
_SAME = {"gregorian": "standard"}


class Times(NamedTuple):
    """Times as a file stores them.

    Attributes
    ----------
    name : str
        The coordinate's name, for messages.
    numbers : array
    units : str
        Such as "days since 1982-01-01".
    calendar : str
    """

    name: str
    numbers: np.ndarray
    units: str
    calendar: str

    def dates(self) -> np.ndarray:
        """The times as cftime's dates."""
        dates = self._convert("num2date", self.numbers, self.units, self.calendar, only_use_cftime_datetimes=True)
        return np.asarray(dates, object)

    def in_units(self, units: str) -> np.ndarray:
        """The same times as numbers in other units; whole numbers where all of them are."""
        numbers = np.asarray(self._convert("date2num", self.dates(), units, self.calendar))
        return numbers.astype(np.float64) if numbers.dtype.kind == "f" else numbers

    def part(self, part: str) -> np.ndarray:
        """A part of each time, one of `PARTS`: texts for the season, else integers."""
        return np.array([PARTS[part](date) for date in self.dates().tolist()])

    def period(self, text: str) -> tuple[float, float]:
        """The first number of a period, such as "1982-01" for a month, and the first after it."""
        match = _DATE.fullmatch(text)
        if match is None:
            raise InputError(
                f"{self.name} is a time: {text!r} is none such as 1982, 1982-01, 1982-01-31 or 1982-01-31T12"
            )
        fields = [int(match[field]) for field in _FIELDS if match[field] is not None]
        date = import_optional("cftime", f"the time {text!r}").datetime
        try:
            ends = [date(*(*f, 1, 1)[: max(3, len(f))], calendar=self.calendar) for f in (fields, _next(fields))]
            if len(fields) > 2:  # days, hours, …: of one length
                import datetime

                unit = {3: "days", 4: "hours", 5: "minutes", 6: "seconds"}[len(fields)]
                ends[1] = ends[0] + datetime.timedelta(**{unit: 1})
        except ValueError as error:
            raise InputError(f"{self.name}: there is no {text} in the calendar {self.calendar} ({error})") from None
        low, high = (float(self._convert("date2num", end, self.units, self.calendar)) for end in ends)
        return low, high

    def _convert(self, function: str, *arguments: Any, **options: Any) -> Any:
        cftime = import_optional("cftime", f"the time coordinate {self.name}")
        try:
            return getattr(cftime, function)(*arguments, **options)
        except (ValueError, OverflowError, TypeError) as error:
            raise InputError(
                f"the coordinate {self.name} with units {self.units!r} and calendar {self.calendar!r} is no time that "
                f"can be read ({error})"
            ) from None


def _next(fields: list[int]) -> list[int]:
    """The year or month after this one; other periods unchanged."""
    if len(fields) == 1:
        return [fields[0] + 1]
    if len(fields) == 2:
        return [fields[0] + fields[1] // 12, fields[1] % 12 + 1]
    return fields


def times_of(name: str, coord: Coord) -> Times | None:
    """A coordinate's times; None if it is no time."""
    values, attrs = np.asarray(coord.values), coord.attrs
    units = attrs.get("units")
    if values.dtype.kind in "iuf" and isinstance(units, str) and " since " in units:
        calendar = str(attrs.get("calendar", "standard")).lower()
        return Times(name, values, units, _SAME.get(calendar, calendar))
    if values.dtype.kind == "M":
        numbers = values.astype("datetime64[us]").astype(np.int64)
        return Times(name, numbers, _IN_MEMORY, "proleptic_gregorian")
    if values.dtype.kind == "O" and values.size and all(hasattr(value, "calendar") for value in values.flat):
        calendar = str(values.flat[0].calendar)
        dates = import_optional("cftime", f"the time coordinate {name}")
        return Times(name, np.asarray(dates.date2num(values, _IN_MEMORY, calendar)), _IN_MEMORY, calendar)
    return None
