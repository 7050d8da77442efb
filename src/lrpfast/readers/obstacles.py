"""Everything in a file that lrpfast does not read, in one message: grouped by its reason, each with its places."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import UnsupportedLayerError

#: How many places one line names.
_NAMED = 8
#: What is longer is no name.
_LONGEST = 300


class ObstacleError(UnsupportedLayerError):
    """One layer, node or operator that is not read: why, and what may help, for a list of several."""

    def __init__(self, message: str, problem: str = "", remedy: str = "") -> None:
        super().__init__(message)
        self.problem, self.remedy = problem or message, remedy


@dataclass(frozen=True)
class Obstacle:
    """One thing that is not read.

    Attributes
    ----------
    kind : str
        The operator or class, as the file calls it.
    location : str
        Its name and position.
    error : UnsupportedLayerError
        An `ObstacleError`, where the reader says more than a message.
    rank : int
        Lower ones come first: layers that a user knows by name, before the moves around them.
    """

    kind: str
    location: str
    error: UnsupportedLayerError
    rank: int = 1

    @property
    def problem(self) -> str:
        """As the end of a sentence that begins with the location."""
        return self.error.problem if isinstance(self.error, ObstacleError) else str(self.error)

    @property
    def remedy(self) -> str:
        return self.error.remedy if isinstance(self.error, ObstacleError) else ""


class Obstacles:
    """Collects what is not read.

    Parameters
    ----------
    noun : str
        What the file is made of: "node", "layer".
    """

    def __init__(self, noun: str) -> None:
        self.noun = noun
        self._items: list[Obstacle] = []

    def add(self, item: Obstacle) -> None:
        """One that is not read; one that is used several times counts once."""
        if (item.kind, item.location, item.problem) not in {(i.kind, i.location, i.problem) for i in self._items}:
            self._items.append(item)

    @property
    def kinds(self) -> set[str]:
        """What is not read: operators, classes of layers."""
        return {item.kind for item in self._items}

    def check(self) -> None:
        """UnsupportedLayerError that names all of them; nothing where there is none."""
        if not self._items:
            return
        first = self._items[0].error
        if len(self._items) == 1:
            raise UnsupportedLayerError(str(first)) from first
        groups: dict[tuple[str, str], list[Obstacle]] = {}
        for item in sorted(self._items, key=lambda item: item.rank):
            groups.setdefault((item.kind[:_LONGEST], item.problem[:_LONGEST]), []).append(item)
        inputs = " and inputs" if any(kind.startswith("input") for kind, _ in groups) else ""
        lines = [f"{len(self._items):,} {self.noun}s{inputs} are not read:"]
        for (kind, problem), group in groups.items():
            named = ", ".join(item.location[:_LONGEST] for item in group[:_NAMED])
            others = f" and {len(group) - _NAMED:,} others" if len(group) > _NAMED else ""
            count = f"{len(group):,} {self.noun}s" if len(group) > 1 else self.noun
            count = "" if kind.startswith("input") else f"{count} "
            lines.append(f"- {count}{kind} {named}{others}: {problem}")
        remedies = dict.fromkeys(item.remedy.rstrip(".") for item in self._items if item.remedy)
        raise UnsupportedLayerError("\n".join([*lines, *(f"{remedy}." for remedy in remedies)])) from first
