"""Hyper-parameters that are declared once: as the fields of a dataclass.

From one line such as ``momentum: float = real(0.0, "0 <= momentum < 1", lambda v: 0 <= v < 1)`` follow the
constructor, the check of range and type, the message of the error, and the form that travels: a name and numbers.
A number that comes back from that form is the same number, bit for bit.
"""

import dataclasses
import math
import numbers
import operator
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Generic, TypeAlias, TypeVar

from shoal.errors import ConfigError, meant, unregistered

__all__ = ["Hyper", "Registry", "Wire"]

Wire: TypeAlias = Any
"""What may travel: ``float | int | bool | str``, a list of integers, or a dictionary of these by name."""

H = TypeVar("H", bound="Hyper")
T = TypeVar("T")

CONVERT = "convert"
"""Key of a field's metadata: the function that checks and converts its value, or raises with what it expects."""


@dataclasses.dataclass(kw_only=True)
class Hyper:
    """A rule or a schedule that is completely described by its registered name and its fields."""

    kind: ClassVar[str] = "rule"
    name: ClassVar[str] = ""

    def __post_init__(self) -> None:
        """Check every field and bring it to its declared type, so that what travels is plain numbers."""
        for field in dataclasses.fields(self):
            if CONVERT in field.metadata:
                setattr(self, field.name, self._converted(field, getattr(self, field.name)))

    def hyper_parameters(self) -> dict[str, Wire]:
        """The fields as plain numbers and text; fields that are None are left out."""
        values = ((f.name, getattr(self, f.name)) for f in dataclasses.fields(self) if CONVERT in f.metadata)
        return {name: _wire(value) for name, value in values if value is not None}

    def refuse(self, parameter: str, got: object, expected: str) -> ConfigError:
        """The error of a value that cannot be used."""
        return ConfigError(f"{self.kind} {self.name!r}: {parameter} is {got!r}, expected {expected}")

    def _converted(self, field: "dataclasses.Field[Any]", value: object) -> Any:
        convert: Callable[[object], Any] = field.metadata[CONVERT]
        try:
            return convert(value)
        except ConfigError:  # of a nested schedule, which names itself
            raise
        except (TypeError, ValueError, OverflowError) as error:
            raise self.refuse(field.name, value, str(error)) from None


_ELSEWHERE = {"lr": "learning_rate", "weight_decay": "wd", "betas": "beta1", "eps": "epsilon", "alpha": "rho"}
"""What others call what has another name here."""


class Registry(Generic[H]):
    """Classes by name, in any case; what is unknown is refused with the names that are known."""

    def __init__(self, kind: str, suffix: str = "") -> None:
        self.kind = kind
        self._suffix = suffix
        self._classes: dict[str, type[H]] = {}

    def register(self, cls: type[H]) -> type[H]:
        """Class decorator: make ``cls`` known under its own name in lower case, without the kind's suffix.

        Raises:
            ConfigError: another class has that name.
        """
        name = cls.__name__.removesuffix(self._suffix).lower()
        other = self._classes.get(name)
        if other is not None and (other.__module__, other.__qualname__) != (cls.__module__, cls.__qualname__):
            raise ConfigError(f"{self.kind} {name!r} is already {other.__module__}.{other.__qualname__}: rename one")
        cls.name, cls.kind = name, self.kind
        self._classes[name] = cls
        return cls

    def names(self) -> list[str]:
        """The known names, sorted."""
        return sorted(self._classes)

    def create(self, name: str, params: Mapping[str, Wire]) -> H:
        """An instance of the class called ``name``.

        Raises:
            ConfigError: the name or a parameter is unknown, or a value is out of its range.
        """
        key = str(name).lower().removesuffix(self._suffix.lower())
        if key not in self._classes:
            raise unregistered(
                f"no {self.kind} is called {name!r}; known: {', '.join(self.names())}{meant(key, self.names())}"
            )
        cls = self._classes[key]
        fields = {f.name: f for f in dataclasses.fields(cls)}
        unknown = [p for p in params if p not in fields]
        if unknown:
            near = _ELSEWHERE.get(unknown[0], "")
            hint = f". Did you mean {near!r}?" if near in fields else meant(unknown[0], fields)
            raise ConfigError(f"{self.kind} {key!r} has no parameter {unknown[0]!r}; known: {', '.join(fields)}{hint}")
        missing = [n for n, f in fields.items() if f.default is dataclasses.MISSING and n not in params]
        if missing:
            raise ConfigError(f"{self.kind} {key!r} needs {missing[0]!r}")
        return cls(**params)


def _wire(value: Any) -> Wire:
    if isinstance(value, Hyper):
        return {"name": value.name, "params": value.hyper_parameters()}
    return list(value) if isinstance(value, tuple) else value


# Fields. Each takes the default, the expected range in words, and the range as a test.


def real(default: float, expected: str = "a finite number", allowed: Callable[[float], bool] = math.isfinite) -> Any:
    """A field that is a float."""
    return declare(default, lambda value: _checked(_float(value), expected, allowed))


def optional_real(expected: str, allowed: Callable[[float], bool]) -> Any:
    """A field that is a float, or None (its default) for "not given"."""
    return declare(None, lambda value: None if value is None else _checked(_float(value), expected, allowed))


def whole(default: int, expected: str, allowed: Callable[[int], bool]) -> Any:
    """A field that is an integer."""
    return declare(default, lambda value: _checked(_int(value), expected, allowed))


def optional_whole(expected: str, allowed: Callable[[int], bool]) -> Any:
    """A field that is an integer, or None (its default) for "not given"."""
    return declare(None, lambda value: None if value is None else _checked(_int(value), expected, allowed))


def required(convert: Callable[[object], Any]) -> Any:
    """A field without a default."""
    return dataclasses.field(metadata={CONVERT: convert})


def flag(default: bool) -> Any:
    """A field that is True or False."""
    return declare(default, _flag)


def choice(default: str, *others: str) -> Any:
    """A field that is one of several words."""
    words = (default, *others)
    return declare(default, lambda value: _checked(value, "one of " + ", ".join(map(repr, words)), words.__contains__))


def declare(default: Any, convert: Callable[[object], Any]) -> Any:
    """A field with any conversion, which raises ValueError with what it expects."""
    return dataclasses.field(default=default, metadata={CONVERT: convert})


def positive(value: float) -> bool:
    """Whether a number can be a divisor or a bound."""
    return 0.0 < value < math.inf


def not_negative(value: float) -> bool:
    """Whether a number can be a rate."""
    return 0.0 <= value < math.inf


def fraction(value: float) -> bool:
    """Whether a number can be the factor of a decaying average."""
    return 0.0 <= value < 1.0


def whole_number(value: object, least: int) -> int:
    """``value`` as an int of at least ``least``, for `required` fields and elements of sequences."""
    return _checked(_int(value), f"an integer >= {least}", lambda v: v >= least)


def _checked(value: T, expected: str, allowed: Callable[[T], bool]) -> T:
    if not allowed(value):
        raise ValueError(expected)
    return value


def _float(value: Any) -> float:
    """Numbers only: a flag or a text in the place of a number is a mistake."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError("a number")
    return float(value)


def _int(value: Any) -> int:
    if isinstance(value, bool):
        raise TypeError("an integer")
    try:
        return operator.index(value)
    except TypeError:
        raise TypeError("an integer") from None


def _flag(value: object) -> bool:
    if value is True or value is False:
        return value
    raise TypeError("True or False")
