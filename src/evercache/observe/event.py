"""What an event is: a fact about the cache, and the four ways in which it is told."""

from __future__ import annotations

import logging
from typing import ClassVar, Literal

from msgspec import Struct

__all__ = ["Begins", "Ends", "Event", "Occasion"]


class Event(Struct, frozen=True):
    """Something that happened or was decided. One of this class itself is told each time.

    The class variables are templates over the fields (`{e.address}`): `text` is what is logged, `closes` the
    states that are over with it. Values are plain: text and numbers.
    """

    level: ClassVar[int] = logging.INFO
    text: ClassVar[str] = ""
    closes: ClassVar[tuple[str, ...]] = ()
    #: For what follows where settings are wrong, which one line has said: until this process has reached a master
    #: for the first time it is logged as `DEBUG`. "quiet": and that was it; "later": then as it is, if it lasts.
    before_contact: ClassVar[Literal["", "quiet", "later"]] = ""

    @property
    def kind(self) -> str:
        """The name by which it is counted: that of its class."""
        return type(self).__name__

    @property
    def message(self) -> str:
        """The sentence that is logged."""
        return self.text.format(e=self)

    @property
    def ends(self) -> tuple[str, ...]:
        """The states that are over with it."""
        return tuple(state.format(e=self) for state in self.closes)

    def __str__(self) -> str:
        return self.message


class Begins(Event, frozen=True):
    """A state begins; told and counted once until it is over, however often it is met.

    While it lasts, one with another `phase` (the kind of trouble, say) is told as well; "" is no other phase.
    Of level `WARNING` and above it is a problem in `health()` until it is over.
    """

    level: ClassVar[int] = logging.WARNING
    opens: ClassVar[str] = ""

    @property
    def state(self) -> str:
        """The name of the state."""
        return self.opens.format(e=self)

    @property
    def phase(self) -> str:
        """What is told again when it changes."""
        return ""


class Ends(Event, frozen=True):
    """A state is over; told and counted only if it had begun."""


class Occasion(Event, frozen=True):
    """Something that may happen at each call; always counted, and told when it comes after a quiet minute."""

    about: ClassVar[str] = ""

    @property
    def topic(self) -> str:
        """What the minute is counted for: the kind alone, or the kind for one function."""
        return f"{self.kind} {self.about.format(e=self)}"
