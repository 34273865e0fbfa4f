"""The technician's page: what it says, and that nothing in it can be made to run."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser

import pytest

from contract.web_station import FakeStation, a_row, ask, opened
from edged.errors import Unavailable
from edged.nouns import HealthStatus
from edged.web.wording import age, clock, facts_text, size


class Document(HTMLParser):
    """Elements with their attributes, the text of each class, and all text."""

    VOID = frozenset({"meta", "link", "br", "circle", "path"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._by_class: dict[str, str] = {}
        self._open: list[tuple[str, list[str]]] = []
        self.feed(text)
        assert self._open == [], "every element is closed"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self._open.append((tag, (dict(attrs).get("class") or "").split()))

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self._open.pop()[0] == tag

    def handle_data(self, data: str) -> None:
        self.text += data
        for _, classes in self._open:
            for name in classes:
                self._by_class[name] = self._by_class.get(name, "") + data

    def of(self, name: str) -> str:
        """The text within elements of a class, spaces collapsed."""
        return " ".join(self._by_class.get(name, "").split())

    def links(self) -> Iterator[str]:
        for _, attributes in self.elements:
            for name in ("href", "src", "action"):
                if attributes.get(name):
                    yield str(attributes[name])


async def page(station: FakeStation) -> Document:
    async with opened(station) as url:
        status, text, headers = await ask(url)
    assert (status, headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    return Document(text)


async def test_a_well_station_says_that_nothing_is_to_do() -> None:
    seen = await page(FakeStation())
    assert (seen.of("lamp"), seen.of("cause"), seen.of("next")) == ("Running", "Everything works.", "Nothing to do.")
    assert ("meta", {"http-equiv": "refresh", "content": "5"}) in seen.elements


@pytest.mark.parametrize(
    ("name", "status", "word"),
    [("triton", HealthStatus.DOWN, "Fault"), ("broker", HealthStatus.DOWN, "Attention"), ("disk", HealthStatus.UNKNOWN, "Starting")],
)
async def test_the_light_says_one_cause_and_one_next_step(name: str, status: HealthStatus, word: str) -> None:
    station = FakeStation()
    station.board.report(name, status, "It does not answer.", "Restart it.")
    seen = await page(station)
    assert seen.of("lamp") == word
    if status is not HealthStatus.UNKNOWN:
        assert (seen.of("cause"), seen.of("next")) == ("It does not answer.", "Do this: Restart it.")
    assert any("icon-" in link for link in seen.links())


async def test_further_causes_stand_below_and_the_light_keeps_the_first() -> None:
    station = FakeStation()
    for name in ("triton", "broker", "recipe:a", "recipe:b", "recipe:c"):
        station.board.report(name, HealthStatus.DOWN, f"{name} is away.", "Wait.")
    seen = await page(station)
    assert seen.of("cause") == "triton is away."
    assert "Also Recipe a: recipe:a is away. Wait." in seen.of("others")
    assert seen.of("others").endswith("and 1 more, below")
    assert "broker is away." in seen.of("tile"), "what does not stand above stands in its tile"


async def test_the_page_shows_cameras_backlog_gpu_and_disk() -> None:
    station = FakeStation()
    station.outbox = {"undelivered": 1840, "parked": 2, "oldest_s": 4210.0, "drains_in_s": 95.0}
    since = datetime.now(UTC) - timedelta(seconds=250)
    linked = {"name": "linked.png", "since": since, "why": "it has 2 hard links and is judged when it has one"}
    station.writing = [{"name": "late.tif", "since": since, "why": ""}, linked]
    seen = await page(station)
    assert "1\u202f840 waiting" in seen.text
    assert "oldest 70 min · drains in 95 s · 2 parked" in seen.of("tile")
    assert "412 GB free" in seen.of("tile")
    assert "no GPU: the NVIDIA kernel driver is not loaded" in seen.of("tile")
    assert "cam1 9 s ago" in seen.of("camera")
    assert "3 waiting · 1 in work · wafer-map · inotify" in seen.of("camera")
    assert "late.tif is still being written since" in seen.of("warn")
    assert "(4 min)" in seen.of("warn")
    assert "linked.png waits since" in seen.of("warn")
    assert "(4 min): it has 2 hard links and is judged when it has one." in seen.of("warn")


async def test_the_figures_of_a_gpu_stand_in_its_tile_and_missing_ones_are_left_out() -> None:
    station = FakeStation()
    facts = {"name": "L4", "utilization_ratio": 0.34, "memory_used_bytes": 12_300_000_000, "memory_total_bytes": 24_000_000_000}
    station.gpu_ = {"gpus": [{**facts, "temperature_celsius": 54.0, "power_watts": None}], "reason": None, "driver": "550"}
    station.board.report("gpu", HealthStatus.OK)
    tile = (await page(station)).of("tile")
    assert "34 % · 12.3 GB of 24.0 GB · 54 °C L4" in " ".join(tile.split())


async def test_the_last_results_show_verdict_reason_name_and_what_waits_for_delivery() -> None:
    station = FakeStation()
    station.rows = [a_row(0, "FAIL", delivered=False), a_row(1, "REVIEW", page=2), a_row(2, "PASS", lot_id=None, wafer_id=None)]
    seen = await page(station)
    assert seen.of("verdict") == "FAILREVIEWPASS"
    assert "class:particle>=0.80" in seen.of("reason")
    assert "(page 3)" in seen.of("file")
    assert seen.of("waits") == "↑"
    assert ("a", {"href": f"/api/v1/results/{a_row(0)['id']}", "title": "L2411A_W07_000000.png"}) in seen.elements


async def test_a_new_station_says_that_nothing_was_judged_yet() -> None:
    station = FakeStation()
    station.rows = []
    assert "No image has been judged yet." in (await page(station)).text


async def test_the_light_is_shown_even_when_the_ledger_is_away() -> None:
    station = FakeStation()
    station.board.report("ledger", HealthStatus.DOWN, "The disk is full.", "Free space on /var.")
    station.raises = Unavailable("ledger", "the disk is full")
    seen = await page(station)
    assert (seen.of("cause"), seen.of("warn")) == ("The disk is full.", "The last results cannot be shown: the disk is full.")


@pytest.mark.parametrize("evil", ["<script>alert(1)</script>.png", '"><img src=x onerror=alert(1)>', "{{ 7*7 }}{% raw %}", "</title>"])
async def test_names_and_causes_that_are_markup_stay_text(evil: str) -> None:
    station = FakeStation()
    station.rows = [a_row(0, "FAIL", name=evil, reason=evil, lot_id=evil, wafer_id=evil, camera=evil, id=evil)]
    station.board.report("triton", HealthStatus.DOWN, evil, evil)
    station.writing = [{"name": evil, "since": datetime.now(UTC), "why": evil}]
    seen = await page(station)
    assert seen.of("cause") == evil
    assert {tag for tag, _ in seen.elements} & {"script", "img", "style", "iframe"} == set()
    assert seen.text.count(evil) >= 6


async def test_the_page_keeps_to_its_content_security_policy() -> None:
    station = FakeStation()
    seen = await page(station)
    for tag, attributes in seen.elements:
        assert tag not in ("script", "style")
        assert not [name for name in attributes if name.startswith("on") or name == "style"]
    assert all(link.startswith("/") and not link.startswith("//") for link in seen.links()), "nothing is fetched from elsewhere"


async def test_every_file_that_the_page_names_is_served() -> None:
    async with opened(FakeStation()) as url:
        seen = Document((await ask(url))[1])
        for status_word in ("ok", "degraded", "down", "unknown"):
            assert (await ask(f"{url}static/icon-{status_word}.svg"))[2]["Content-Type"] == "image/svg+xml"
        for link in seen.links():
            assert (await ask(url.rstrip("/") + link))[0] == 200
        css = (await ask(url + "static/page.css"))[1]
        assert "prefers-color-scheme: dark" in css
        assert "url(" not in css


@pytest.mark.parametrize("name", ["..%2foverview.html", "overview.html", "%2fetc%2fpasswd", "page.css%00"])
async def test_only_the_pages_own_files_are_served(name: str) -> None:
    async with opened(FakeStation()) as url:
        assert (await ask(f"{url}static/{name}"))[0] == 404


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-5, "0 s"), (0.4, "0 s"), (99, "99 s"), (100, "1 min"), (5999, "99 min"), (6000, "1 h 40 min"), (172_800, "2 d")],
)
def test_durations_read_in_at_most_two_units(seconds: float, text: str) -> None:
    assert age(seconds) == text


@pytest.mark.parametrize(("count", "text"), [(0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (412e9, "412 GB"), (1.9e12, "1.9 TB")])
def test_sizes_read_in_decimal_units(count: float, text: str) -> None:
    assert size(count) == text


def test_a_time_of_another_day_carries_its_date() -> None:
    now = datetime(2026, 11, 23, 12, 0).astimezone()
    assert clock(now - timedelta(hours=1), now) == "11:00:00"
    assert clock(now - timedelta(days=1), now) == "22 Nov 12:00"


def test_facts_read_with_the_unit_of_their_name() -> None:
    assert facts_text({"free_bytes": 63e9, "buffer_h": 61.2, "oldest_s": 4000, "fourth": 1}) == "63.0 GB free, buffer 61 h, oldest 66 min"
    assert facts_text({"url": "http://127.0.0.1/", "list": [1], "none": None}) == "url http://127.0.0.1/"
