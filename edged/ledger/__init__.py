"""The only room that knows SQLite."""

from edged.ledger.cameras import rename as rename_camera
from edged.ledger.connection import sqlite_version
from edged.ledger.identity import identity
from edged.ledger.ledger import Ledger
from edged.ledger.outbox import Outbox
from edged.ledger.read import Figures

__all__ = ["Figures", "Ledger", "Outbox", "identity", "rename_camera", "sqlite_version"]
