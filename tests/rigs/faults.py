"""The table of faults: each test of tests/faults writes its row; what could not run is counted apart, never as passed.

Fixture
- `fault`: `fault.row(...)` states what came of it and fails the test if anything was lost; `fault.control(...)` is a rig's proof that it
  can lose. The test carries `@pytest.mark.fault("its name in the table", matrix=(1, 2))`.
"""

from __future__ import annotations

import json
import signal
from collections.abc import Generator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pytest

from rigs.tally import Tally

FAULTS = "/faults/"
QUICK_KILLS = 20


@dataclass(frozen=True, slots=True)
class Row:
    """`recovered_s`: from the end of the fault to the first new verdict or delivery. `matrix`: which faults of our matrix it stands for.
    `control`: a rig that must lose; its losses are no losses of ours."""

    fault: str
    how: str
    images: int
    lost: int
    doubled: int
    recovered_s: float | None
    ok: bool
    matrix: Sequence[int] = ()
    note: str = ""
    control: bool = False


class Table:
    def __init__(self) -> None:
        self.rows: list[Row] = []
        self.not_run: list[tuple[str, str]] = []

    def text(self) -> list[str]:
        titles = ("fault", "how", "images", "lost", "doubled", "recovered s", "")
        lines = [titles, *[_cells(row) for row in self.rows]]
        widths = [max(len(line[column]) for line in lines) for column in range(len(titles))]
        shown = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
        well = sum(row.ok for row in self.rows)
        count = f"{well} ok, {len(self.rows) - well} failed, {len(self.not_run)} not run"
        return [*shown, *(f"NOT RUN: {name}: {reason}" for name, reason in self.not_run), count]

    def json(self) -> str:
        rows = [asdict(row) for row in self.rows if not row.control]
        controls = [asdict(row) for row in self.rows if row.control]
        not_run = [{"fault": name, "reason": reason} for name, reason in self.not_run]
        return json.dumps({"rows": rows, "controls": controls, "not_run": not_run}, indent=1)


def _cells(row: Row) -> tuple[str, ...]:
    recovered = "-" if row.recovered_s is None else f"{row.recovered_s:.1f}"
    end = ("ok" if row.ok else "FAILED") + (f" ({row.note})" if row.note else "")
    return row.fault, row.how, str(row.images), str(row.lost), "-" if row.control else str(row.doubled), recovered, end


class Fault:
    """`name` and `matrix` from the test's mark; `kills`: how often the long loops kill."""

    def __init__(self, table: Table, name: str, matrix: Sequence[int], kills: int) -> None:
        self._table, self.name, self.matrix, self.kills = table, name, matrix, kills
        self.told = False

    def row(
        self,
        how: str,
        tally: Tally | None = None,
        *,
        images: int | None = None,
        lost: int | None = None,
        doubled: int | None = None,
        recovered_s: float | None = None,
        ok: bool = True,
        note: str = "",
        fault: str | None = None,
    ) -> None:
        """Of a whole station give `tally`, else the three counts. `fault`: another name than the test's, for a test with several rows."""
        if tally is not None:
            images, lost, doubled = tally.images, tally.lost, tally.doubled
            ok = ok and tally.well
        assert images is not None and lost is not None and doubled is not None, "a row without counts says nothing"
        ok = ok and images > 0 and not lost and not doubled
        self._table.rows.append(Row(fault or self.name, how, images, lost, doubled, recovered_s, ok, self.matrix, note))
        self.told = True
        assert ok, f"{self.name}: {tally or (images, lost, doubled)} {note}"

    def control(self, how: str, *, images: int, lost: int, note: str = "") -> None:
        """What is known to lose must lose here too, else this rig proves nothing."""
        row = Row(f"{self.name} (control)", how, images, lost, 0, None, lost > 0, self.matrix, note or "must lose", control=True)
        self._table.rows.append(row)
        self.told = True
        assert lost > 0, f"{self.name}: the control lost nothing of {images}: this rig proves nothing"


_TABLE = pytest.StashKey[Table]()
_FAULT = pytest.StashKey[Fault]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("faults")
    group.addoption("--kills", type=int, default=QUICK_KILLS, metavar="N", help="how often the loops of kills kill")
    group.addoption("--faults-json", type=Path, default=None, metavar="FILE", help="where the table of faults is written")
    group.addoption("--soak-hours", type=float, default=0.2, metavar="H", help="how long the soak lasts")
    group.addoption("--soak-rate", type=float, default=8.0, metavar="PER_S", help="images a second in the soak")
    group.addoption("--soak-seed", type=int, default=1, metavar="N", help="which faults come when")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_TABLE] = Table()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: whatever ends the tests, mounts and processes are given back


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if FAULTS in item.path.as_posix() and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(7200 if item.get_closest_marker("long") else 300))


@pytest.fixture
def fault(request: pytest.FixtureRequest) -> Fault:
    mark = request.node.get_closest_marker("fault")
    assert mark is not None, "a test of a fault carries @pytest.mark.fault(name)"
    made = Fault(request.config.stash[_TABLE], mark.args[0], mark.kwargs.get("matrix", ()), request.config.getoption("--kills"))
    request.node.stash[_FAULT] = made
    return made


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    mark = item.get_closest_marker("fault")
    if mark is None:
        return report
    table, told = item.config.stash[_TABLE], item.stash.get(_FAULT, None)
    if report.skipped and call.excinfo is not None:
        table.not_run.append((mark.args[0], str(call.excinfo.value).removeprefix("Skipped: ")))
    elif report.failed and not (told and told.told and not table.rows[-1].ok):
        table.rows.append(Row(mark.args[0], f"{report.when} failed", 0, 0, 0, None, False, mark.kwargs.get("matrix", ())))
    return report


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    table = config.stash[_TABLE]
    if table.rows or table.not_run:
        terminalreporter.section("faults")
        for line in table.text():
            terminalreporter.write_line(line)
    if (file := config.getoption("--faults-json")) is not None:
        file.write_text(table.json())
