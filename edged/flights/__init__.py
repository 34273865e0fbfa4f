"""Which images are under way, told across the daemon's own death: so that one that brings it down cannot do so for ever."""

from edged.flights.flights import Flight, Flights
from edged.flights.opening import opened

__all__ = ["Flight", "Flights", "opened"]
