"""The door for people and programs: probes, metrics, a reading API and the technician's page."""

from edged.web.door import Door
from edged.web.views import StationView

__all__ = ["Door", "StationView"]
