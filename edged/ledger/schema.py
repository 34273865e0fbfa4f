"""The ledger's tables and their words.

Invariants
- `landing` is what was seen of a file once: one row for each (camera, path, size, mtime) that was recorded. A touched or renamed file is a
  further row that names the first in `same_as`. It outlives its results, so that an old file that is kept is never judged twice.
- `message` is what the plant is told: frozen when it is committed. `result` holds what is asked about it, in narrow rows.
- `outbox` is the state of one message's delivery to one sink. Only a delivered message may be pruned.
- `sequence` counts without holes within (epoch, kind); `epoch` belongs to this file.
- `absent` holds ranges of numbers that are rightly not in this file (pruned, or told as lost), `ended` the last numbers of epochs before
  this file's: every other number up to the last is here, or is lost.
- `checksum` of a message covers all that makes it up (`rows.checksum`), that of a landing its whole row (`rows.seal_landings`); NULL:
  recorded by an edged that made none.
- `age` is the ledger's own time in seconds, which no jump of the wall clock moves (see `retention.py`).
"""

from __future__ import annotations

from typing import Final

KINDS: Final = ("result", "wafer", "event")
MQTT: Final = "mqtt"
SINKS: Final = (MQTT,)

DUE: Final = 0
"""To be sent, or sent and not answered yet."""
ACCEPTED: Final = 1
"""The broker took it; the MES has not acknowledged it yet (`confirm = "mes"`)."""
HELD: Final = 2
"""Nobody subscribes to its topic."""
PARKED: Final = 3
"""Put aside, announced."""
DELIVERED: Final = 4

STATE_NAMES: Final = {DUE: "due", ACCEPTED: "accepted", HELD: "held", PARKED: "parked", DELIVERED: "delivered"}

SALVAGED: Final = "salvaged"
"""How a landing came to be that is made again from what its result's message says."""
WAYS: Final = ("judged", "baseline", "touched", "renamed", SALVAGED)
"""How a landing came to be."""

PENDING: Final = "pending"
"""The disposal of a file that is judged and not yet disposed of."""

FIRST = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value) WITHOUT ROWID;  -- without a type: an epoch of digits stays text

CREATE TABLE sequence (kind TEXT PRIMARY KEY, last INTEGER NOT NULL) WITHOUT ROWID;
INSERT INTO sequence VALUES ('result', 0), ('wafer', 0), ('event', 0);

CREATE TABLE camera (
  name TEXT PRIMARY KEY, folder TEXT NOT NULL, first_seen REAL NOT NULL, baselined INTEGER NOT NULL DEFAULT 0, files INTEGER
) WITHOUT ROWID;

CREATE TABLE landing (
  landing INTEGER PRIMARY KEY,
  key INTEGER NOT NULL,       -- hash of camera, path, size, mtime
  place INTEGER NOT NULL,     -- hash of camera, path
  base INTEGER NOT NULL,      -- hash of the file's bare name
  content INTEGER,            -- the first 8 bytes of sha256; NULL for a baseline, which is not read
  camera TEXT NOT NULL, path BLOB NOT NULL, size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL, sha256 BLOB,
                              -- mtime_ns beyond 64 bits is a BLOB of decimal digits
  how TEXT NOT NULL,          -- judged | baseline | touched | renamed
  same_as INTEGER, id BLOB, pages INTEGER NOT NULL DEFAULT 0, verdict TEXT, reason TEXT,
  detected REAL, recorded REAL NOT NULL, age INTEGER NOT NULL,
  gone REAL, gone_by TEXT,    -- vanished | us | renamed: no longer at this place, and why
  disposal TEXT, moved_to TEXT
);
CREATE INDEX landing_key ON landing (key);
CREATE INDEX landing_place ON landing (place);
CREATE INDEX landing_base ON landing (base);
CREATE INDEX landing_content ON landing (content) WHERE content IS NOT NULL;
CREATE INDEX landing_pending ON landing (camera) WHERE disposal = 'pending';
CREATE INDEX landing_gone ON landing (age) WHERE gone IS NOT NULL;

CREATE TABLE topic (topic INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, held_since REAL);

CREATE TABLE message (
  message INTEGER PRIMARY KEY,
  kind TEXT NOT NULL, epoch TEXT NOT NULL, sequence INTEGER NOT NULL, id TEXT NOT NULL,
  topic INTEGER NOT NULL REFERENCES topic, created REAL NOT NULL, age INTEGER NOT NULL, properties TEXT NOT NULL, body BLOB NOT NULL
);
CREATE UNIQUE INDEX message_sequence ON message (kind, epoch, sequence);

CREATE TABLE result (
  message INTEGER PRIMARY KEY REFERENCES message,
  id BLOB NOT NULL, landing INTEGER NOT NULL REFERENCES landing, page INTEGER NOT NULL, judgement INTEGER NOT NULL,
  sequence INTEGER NOT NULL, camera TEXT NOT NULL, name TEXT NOT NULL, verdict TEXT NOT NULL, reason TEXT NOT NULL,
  lot TEXT, wafer TEXT, recipe TEXT NOT NULL, decided REAL NOT NULL
);
CREATE UNIQUE INDEX result_id ON result (id);
CREATE INDEX result_landing ON result (landing);
CREATE INDEX result_camera ON result (camera);
CREATE INDEX result_bad ON result (verdict) WHERE verdict <> 'PASS';
CREATE INDEX result_lot ON result (lot) WHERE lot IS NOT NULL;
CREATE INDEX result_wafer ON result (wafer) WHERE wafer IS NOT NULL;

CREATE TABLE outbox (
  message INTEGER NOT NULL REFERENCES message, sink TEXT NOT NULL, state INTEGER NOT NULL, topic INTEGER NOT NULL,
  attempts INTEGER NOT NULL DEFAULT 0, strikes INTEGER NOT NULL DEFAULT 0, replay INTEGER NOT NULL DEFAULT 0,
  sent_at REAL, resend_at REAL, -- by the boot's monotonic clock: accepted; sent again if the MES has not said a word by then
  at REAL, reason TEXT,
  PRIMARY KEY (message, sink)
) WITHOUT ROWID;
CREATE INDEX outbox_open ON outbox (sink, state, message) WHERE state < 4;
CREATE INDEX outbox_held ON outbox (topic, message) WHERE state = 2;
CREATE INDEX outbox_resend ON outbox (resend_at) WHERE state = 1;
"""
