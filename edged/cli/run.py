"""run: the daemon in the foreground."""

from __future__ import annotations

import argparse
import asyncio
import faulthandler
import os

import structlog

from edged import failpoints, logs
from edged.cli import DEFAULT_CONFIG
from edged.cli.check import refuse
from edged.config import load
from edged.running import run as run_daemon

log = structlog.get_logger("edged.run")


def run(args: argparse.Namespace) -> int:
    """Ends with 0 after a signal; an unexpected error passes through and ends the process with 1."""
    faulthandler.enable()  # until `flights` takes it over, which writes the stack of a fatal signal at the next start
    file = args.config or DEFAULT_CONFIG
    config = load(file)
    refuse(config, file)
    logs.setup(config.log)
    if armed := failpoints.arm(os.environ.get(failpoints.VARIABLE, "")):
        log.warning("daemon.failpoints", armed=armed, hint=f"For tests only: unset {failpoints.VARIABLE} on a station.")
    return asyncio.run(run_daemon(config, file))
