"""The only room that knows SQLite."""

from edged.ledger.cameras import rename as rename_camera
from edged.ledger.connection import sqlite_version
from edged.ledger.copies import backup, vacuum
from edged.ledger.identity import identity
from edged.ledger.inspection import Inspection, inspect
from edged.ledger.ledger import Ledger
from edged.ledger.outbox import Outbox
from edged.ledger.read import Figures

__all__ = ["Figures", "Inspection", "Ledger", "Outbox", "backup", "identity", "inspect", "rename_camera", "sqlite_version", "vacuum"]
