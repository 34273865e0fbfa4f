"""The real ledger on a real file against a pure model, in any order: land, record, crash, look again, send, acknowledge, lose, prune."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Coroutine
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule, run_state_machine_as_test

from contract.ledger_pages import opened, page
from edged.ledger import Ledger
from edged.nouns import OutboxRow, PageResult, Recording
from rigs.faults import Fault

T = TypeVar("T")
PATHS = [b"%d.png" % number for number in range(5)]
CONTENTS = [b"content %d" % number for number in range(4)]
MTIMES = [1_000, 2_000, 3_000]
THEN = ["", "record", "record, keep"]
COMPARED = "ids, numbers and bodies compared with the model after each step"
SHM = Path("/dev/shm")
"""Nothing here needs a disk: a process that dies leaves its files as they are."""


@dataclass
class Row:
    """A landing as the model remembers it."""

    path: bytes
    content: bytes
    mtime_ns: int
    id: str
    pending: bool = True
    gone_by: str | None = None


class Model:
    """What the contract promises of landings, in memory."""

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self.last = 0
        self.open: dict[int, str] = {}
        """sequence -> id of what is not delivered"""
        self.ids: set[str] = set()

    def expected(self, path: bytes, content: bytes, mtime_ns: int) -> tuple[Recording, Row | None]:
        here = [row for row in self.rows if row.path == path]
        same = next((row for row in here if (row.content, row.mtime_ns) == (content, mtime_ns)), None)
        if same is not None:
            return Recording.KNOWN, same
        if here and here[-1].gone_by is None and here[-1].content == content:
            return Recording.SAME, here[-1]
        wanted = content, mtime_ns, "vanished"
        moved = [row for row in self.rows if (row.content, row.mtime_ns, row.gone_by) == wanted and row.path != path]
        return (Recording.RENAMED, moved[-1]) if moved else (Recording.RECORDED, None)

    def record(self, path: bytes, content: bytes, mtime_ns: int, id_: str) -> None:
        outcome, row = self.expected(path, content, mtime_ns)
        if outcome is Recording.KNOWN and row is not None:
            row.gone_by, row.pending = None, True
            return
        if outcome is Recording.RENAMED and row is not None:
            row.gone_by = "renamed"
        if outcome is Recording.RECORDED:
            self.last += 1
            self.open[self.last] = id_
            self.ids.add(id_)
        self.rows.append(Row(path, content, mtime_ns, id_))

    def vanished(self, path: bytes) -> None:
        for row in self.rows:
            if row.path == path and row.gone_by is None:
                row.gone_by = "us" if row.pending else "vanished"

    def kept(self, path: bytes, id_: str) -> None:
        for row in self.rows:
            if (row.path, row.id, row.pending) == (path, id_, True):
                row.pending = False
                if row.gone_by is not None:
                    row.gone_by = "vanished"


class LedgerMachine(RuleBasedStateMachine):
    """`folder` is what lies in the drop folder; the ledger never sees it but through `record` and `vanished`."""

    steps: ClassVar[int] = 0
    recorded: ClassVar[int] = 0

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.home = Path(tempfile.mkdtemp(prefix="edged-model-", dir=SHM if SHM.is_dir() else None))
        self.state, self.states = self.home / "0", 0
        self.model = Model()
        self.folder: dict[bytes, tuple[bytes, int]] = {}
        self.told: set[bytes] = set()
        """paths whose present file is recorded"""
        self.flying: list[OutboxRow] = []
        self.bodies: dict[str, bytes] = {}
        self.around: AbstractAsyncContextManager[Ledger] | None = None
        self.ledger: Ledger

    def run(self, what: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(asyncio.wait_for(what, 30))

    def page(self, path: bytes) -> PageResult:
        content, mtime_ns = self.folder[path]
        return page(path, content, mtime_ns=mtime_ns)

    @initialize()
    def begin(self) -> None:
        self.open_()

    def open_(self, **config: Any) -> None:
        self.around = opened(self.state, tick_s=0.01, **config)
        self.ledger = self.run(self.around.__aenter__())

    def close(self) -> None:
        if self.around is not None:
            self.run(self.around.__aexit__(None, None, None))
            self.around = None

    # --- the tool ------------------------------------------------------------------------------------------------------------
    @rule(path=st.sampled_from(PATHS), content=st.sampled_from(CONTENTS), mtime_ns=st.sampled_from(MTIMES), then=st.sampled_from(THEN))
    def land(self, path: bytes, content: bytes, mtime_ns: int, then: str) -> None:
        self.folder[path] = content, mtime_ns
        self.told.discard(path)
        if then:
            self.record(path)
        if then == "record, keep":
            self.keep(path)

    @rule(path=st.sampled_from(PATHS))
    def take_away(self, path: bytes) -> None:
        """And a scan misses it."""
        if self.folder.pop(path, None) is not None or path not in self.folder:
            self.told.discard(path)
            self.run(self.ledger.vanished("cam1", path))
            self.run(self.ledger.known("cam1", []))  # when this is answered, it is written
            self.model.vanished(path)

    # --- intake --------------------------------------------------------------------------------------------------------------
    @rule(keep=st.booleans())
    def scan(self, keep: bool) -> None:
        """Everything that is not known is recorded; with `keep` its disposal is told."""
        for path in sorted(self.folder):
            if path not in self.told:
                self.record(path)
                if keep:
                    self.keep(path)

    def record(self, path: bytes) -> None:
        content, mtime_ns = self.folder[path]
        outcome, row = self.model.expected(path, content, mtime_ns)
        said = self.run(self.ledger.record([self.page(path)]))
        assert said.outcome is outcome, f"{path!r}: {said.outcome}, the model says {outcome}"
        (id_,) = said.ids
        assert id_ == row.id if row is not None else id_ not in self.model.ids
        self.model.record(path, content, mtime_ns, id_)
        self.told.add(path)
        type(self).recorded += outcome is Recording.RECORDED

    def keep(self, path: bytes) -> None:
        id_ = next(row.id for row in reversed(self.model.rows) if row.path == path and row.gone_by is None)
        self.run(self.ledger.disposed("cam1", path, id_, "kept", None))
        self.model.kept(path, id_)

    # --- deaths --------------------------------------------------------------------------------------------------------------
    @rule()
    def crash(self) -> None:
        """kill -9: the files as they are, without anybody closing anything."""
        self.die()

    @precondition(lambda self: any(path not in self.told for path in self.folder))
    @rule()
    def crash_while_recording(self) -> None:
        """Nobody knows whether it was still written: the next scan finds out, and must not judge it twice."""
        path = min(path for path in self.folder if path not in self.told)

        async def begin_and_die() -> None:
            task = asyncio.ensure_future(self.ledger.record([self.page(path)]))
            await asyncio.sleep(0)
            self.copied()
            await task

        self.run(begin_and_die())
        self.die(copy=False)
        content, mtime_ns = self.folder[path]
        outcome, row = self.model.expected(path, content, mtime_ns)
        said = self.run(self.ledger.record([self.page(path)]))
        assert said.outcome in (outcome, Recording.KNOWN)
        assert row is None or said.ids == (row.id,)
        self.model.record(path, content, mtime_ns, said.ids[0])
        self.told.add(path)

    @rule()
    def stop_and_prune(self) -> None:
        """Restarted with less room: what is delivered may go, what is known stays known."""
        self.close()
        self.flying.clear()
        self.told.clear()
        self.open_(retain_rows=1)
        self.loop.run_until_complete(asyncio.sleep(0.05))

    def copied(self) -> None:
        self.states += 1
        to = self.home / str(self.states)
        to.mkdir()
        for name in ("ledger.db", "ledger.db-wal"):
            if (self.state / name).exists():
                shutil.copy(self.state / name, to / name)

    def die(self, *, copy: bool = True) -> None:
        if copy:
            self.copied()
        self.close()
        shutil.rmtree(self.state)
        self.state = self.home / str(self.states)
        self.flying.clear()
        self.told.clear()  # after a crash the folder is listed again
        self.open_()

    # --- the plant -----------------------------------------------------------------------------------------------------------
    @rule(count=st.integers(1, 5))
    def send(self, count: int) -> None:
        after = self.flying[-1].row if self.flying else 0
        self.flying += self.run(self.ledger.outbox.due("backlog", count, after, 2**62))

    @precondition(lambda self: self.flying)
    @rule(count=st.integers(1, 5))
    def acknowledge(self, count: int) -> None:
        rows, self.flying = self.flying[:count], self.flying[count:]
        self.run(self.ledger.outbox.delivered([row.row for row in rows]))
        for row in rows:
            if row.kind == "result":
                self.model.open.pop(row.sequence, None)

    @precondition(lambda self: self.flying)
    @rule()
    def lose(self) -> None:
        """The connection goes before the broker answers."""
        rows, self.flying = self.flying, []
        self.run(self.ledger.outbox.lost([row.row for row in rows]))

    # --- the promises --------------------------------------------------------------------------------------------------------
    @invariant()
    def what_is_not_delivered_is_due_in_order_with_the_body_it_always_had(self) -> None:
        type(self).steps += 1
        if self.around is None:
            return
        rows = self.run(self.ledger.outbox.due("backlog", 10_000, 0, 2**62))
        results = [row for row in rows if row.kind == "result"]
        assert [(row.sequence, row.id) for row in results] == sorted(self.model.open.items())
        for row in results:
            assert self.bodies.setdefault(row.id, row.body) == row.body

    @invariant()
    def what_is_recorded_is_known(self) -> None:
        if self.around is None:
            return
        rows = [row for row in self.model.rows if row.gone_by is None]
        seen = [(row.path, len(row.content), row.mtime_ns) for row in rows]
        assert self.run(self.ledger.known("cam1", seen)) == set(range(len(rows)))

    def teardown(self) -> None:
        self.close()
        self.loop.run_until_complete(self.loop.shutdown_default_executor())
        self.loop.close()
        shutil.rmtree(self.home)


def run_machine(examples: int, steps: int, *, derandomize: bool) -> tuple[int, int]:
    """How many steps were made, how many images recorded."""
    LedgerMachine.steps = LedgerMachine.recorded = 0
    chosen = settings(
        max_examples=examples,
        stateful_step_count=steps,
        derandomize=derandomize,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        print_blob=True,
    )
    run_state_machine_as_test(LedgerMachine, settings=chosen)
    return LedgerMachine.steps, LedgerMachine.recorded


@pytest.mark.fault("any order of landings, crashes, answers and pruning", matrix=(53,))
def test_in_any_order_the_ledger_does_what_the_model_says(fault: Fault) -> None:
    steps, recorded = run_machine(20, 40, derandomize=True)
    fault.row(how=f"{steps} steps of a state machine", images=recorded, lost=0, doubled=0, note=COMPARED)


@pytest.mark.long
@pytest.mark.fault("any order of landings, crashes, answers and pruning, 10,000 steps", matrix=(53,))
def test_in_any_order_for_ten_thousand_steps(fault: Fault) -> None:
    steps, recorded = run_machine(100, 100, derandomize=False)
    assert steps >= 9_000
    fault.row(how=f"{steps} steps of a state machine", images=recorded, lost=0, doubled=0, note=COMPARED)
