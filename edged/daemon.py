"""Opens every adapter, owns the one TaskGroup and the deadlines: the only file that knows all rooms.

Invariants
- Sinks start first, sources stop first. A signal reaches only intake: its channel closes, the pipeline drains, then the plant is told
  that we go. What has not drained within `GRACE_S` waits in its folder, and in the outbox.
- Every task is named and lives in the one group. An exception that nobody expected ends the group.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack, suppress

import structlog

from edged import __version__
from edged.channel import Lanes
from edged.clock import ClockWatch
from edged.config import Config
from edged.errors import ModelMismatch, Unavailable
from edged.failpoints import reach
from edged.flights import Flights, opened
from edged.holds import Holds
from edged.inference import Inference
from edged.intake import Intake, Quarantine
from edged.journey import Journey
from edged.late import LateSidecars
from edged.ledger import Ledger
from edged.nouns import Landing
from edged.pipeline import Pipeline
from edged.plant import Messages, Plant
from edged.plant.told import identity_of, page_of
from edged.rejudging import Rejudging
from edged.shelf import Limits
from edged.station import Station
from edged.verdict import gate, golden_defects, identified, judge
from edged.vision.decoders import Decoders
from edged.vision.offline import prepare_golden
from edged.vitals.gpu import GpuWatch
from edged.vitals.health import HealthBoard, headline
from edged.vitals.limits import LimitWatch
from edged.vitals.metrics import Gauges, Metrics
from edged.vitals.notify import Notifier
from edged.web import Door

log = structlog.get_logger("edged.daemon")

GRACE_S = 10.0
LANDINGS = 128
"""How many landings of a recipe may wait for a worker: enough that a scan and the decoders do not wait for each other."""
STALL_S = 60.0
"""With images under way and none finished for this long, the watchdog is no longer fed."""
DEADLINES = 4
"""Nor sooner than this many deadlines of Triton: what a chain of models, or a second try, may wait for a peer."""


def _quarantine(config: Config) -> Quarantine:
    kept = config.quarantine
    limits = Limits(kept.retain_days, kept.retain_files, kept.retain_bytes)
    return Quarantine(config.station.state_dir / "quarantine", limits, config.ledger.min_free_bytes)


async def _wait(failed: asyncio.Future[None]) -> None:
    await failed


class Daemon:
    """Every room, opened and wired."""

    def __init__(
        self,
        config: Config,
        board: HealthBoard,
        clock: ClockWatch,
        ledger: Ledger,
        flights: Flights,
        decoders: Decoders,
        inference: Inference,
    ) -> None:
        self.config, self.board, self.clock, self.ledger = config, board, clock, ledger
        self.inference, self.decoders = inference, decoders
        recipes = {recipe.name: recipe for recipe in config.recipe}
        self.holds = Holds(lambda recipe: ledger.trouble() is None and inference.ready(recipe))
        self.landings: Lanes[Landing] = Lanes(recipes, lambda landing: landing.recipe, LANDINGS)
        self.intake = Intake(
            cameras=config.camera,
            recipes=recipes,
            landings=self.landings,
            recall=ledger,
            standings=ledger.cameras,
            held=self.holds.active,
            quarantine=_quarantine(config),
            board=board,
            announce=ledger.announce,
        )
        self.rejudging = Rejudging(
            rejudgements=ledger.rejudgements,
            finder=self.intake,
            landings=self.landings,
            held=self.holds.active,
            cameras=config.camera,
            recipes=tuple(recipes),
            told=identity_of,
        )
        self.late = LateSidecars(
            late=self.intake.late,
            rejudgements=ledger.rejudgements,
            judge_again=self.rejudging.add,
            finder=self.intake,
            cameras=config.camera,
            recipes=recipes,
            page_of=page_of,
            identified=identified,
        )
        self.journey = Journey(
            recipes=config.recipe,
            vision=decoders,
            inference=inference,
            judge=judge,
            gate=gate,
        )
        self.gpu = GpuWatch(config.gpu, board)
        self.metrics = Metrics(__version__, self._gauges)
        self.pipeline = Pipeline(
            landings=self.landings,
            journey=self.journey,
            intake=self.intake,
            rejudging=self.rejudging,
            ledger=ledger,
            metrics=self.metrics,
            holds=self.holds,
            workers=config.decode.slots,
            flights=flights,
        )
        self.station = Station(self)
        self.plant = Plant(
            config,
            outbox=ledger.outbox,
            board=board,
            published=self.metrics.publish,
            health=board.items,
            backlog=ledger.outbox_figures,
            birth=self.station.birth,
            telemetry=self.station.telemetry,
            e10=self.station.e10,
            clock=self.clock.state,
        )
        self.door = Door(config.http, self.station, board)
        self.notifier = Notifier()

    @classmethod
    async def open(cls, config: Config, board: HealthBoard, stack: AsyncExitStack) -> Daemon:
        """Adapters close in reverse: the ledger last, since the others may still write to it."""
        frames = {camera.name: frame for camera in config.camera if (frame := camera.die_frame)}
        # In SEMI E10's words a vision node that judges an image is productive.
        clock = ClockWatch(board)
        messages = Messages(config.station, config.topic_base, frames, clock=clock.state, e10=lambda: "PRD")
        ledger = await stack.enter_async_context(
            Ledger.open(config.station.state_dir, config.ledger, messages, board, source=config.station.source)
        )
        flights = stack.enter_context(opened(config.station.state_dir))
        limits = {recipe.name: recipe.rules.quality for recipe in config.recipe}
        decoders = await stack.enter_async_context(Decoders(config.decode, limits, board))
        inference = await stack.enter_async_context(
            Inference(
                config.triton,
                config.models.located(),
                config.station.state_dir,
                config.recipe,
                board,
                prepare_golden=prepare_golden,
                find_defects=golden_defects,
                release=decoders.release,
                turned=decoders.turned,
            )
        )
        decoders.on_ring(inference.add_ring)
        for recipe in config.recipe:
            with suppress(ModelMismatch, Unavailable):  # the ring is made with the first image, once the model and /dev/shm allow it
                decoders.reserve(inference.plans(recipe.name))
        return cls(config, board, clock, ledger, flights, decoders, inference)

    async def serve(self, stop: asyncio.Event, failed: asyncio.Future[None]) -> None:
        """Sinks first: plant, inference and the door run before the first landing is sent; they end after the last is recorded.

        `failed` ends everything when it raises.
        """
        end = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            watch = group.create_task(_wait(failed), name="callbacks")
            sides = [
                group.create_task(self.ledger.run(end), name="ledger"),
                group.create_task(self.clock.run(end, self.ledger.announce), name="clock"),
                group.create_task(self.plant.run(end), name="plant"),
                group.create_task(self.inference.run(end), name="inference"),
                group.create_task(self.gpu.run(end), name="gpu"),
                group.create_task(LimitWatch(self.board).run(end), name="limits"),
                group.create_task(self.door.run(end), name="door"),
                group.create_task(self.notifier.run(end, self.advancing, self.status_line), name="notify"),
            ]
            journey = [
                group.create_task(self.pipeline.run(), name="pipeline"),
                group.create_task(self.intake.run(stop), name="intake"),
                group.create_task(self.rejudging.run(stop), name="rejudging"),
                group.create_task(self.late.run(stop), name="late"),
            ]
            self.notifier.ready(self.status_line())
            reach("daemon.ready")
            await stop.wait()
            self.notifier.stopping("draining")
            reach("daemon.draining")
            await asyncio.wait(journey, timeout=GRACE_S)
            end.set()
            _, late = await asyncio.wait([*journey, *sides], timeout=GRACE_S)
            if late:
                log.warning("daemon.not_drained", tasks=sorted(task.get_name() for task in late))
            for task in (watch, *late):
                task.cancel()

    def _gauges(self) -> Gauges:
        return self.station.gauges()

    def advancing(self) -> bool | str:
        """For the watchdog: the loop runs (else nobody asks), and the pipeline finishes what it has begun, or knows why not."""
        stalled_s = self.beat()
        # A peer that does not answer is told of by its deadline, however long that is: no reason to begin anew.
        allowed_s = max(STALL_S, DEADLINES * self.config.triton.deadline_s)
        return True if stalled_s < allowed_s else f"the pipeline has finished no image for {stalled_s:.0f} s"

    def beat(self) -> float:
        """Seconds since the pipeline advanced; an idle one, or one that is held by a peer or a disk that hangs, advances."""
        if self.pipeline.in_flight == 0 or self.ledger.stalled:
            return 0.0
        return time.monotonic() - max(self.pipeline.advanced, self.journey.advanced)

    def status_line(self) -> str:
        return headline(self.board.overall())
