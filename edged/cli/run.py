"""run: the daemon in the foreground."""

from __future__ import annotations

import argparse
import asyncio
import faulthandler

from edged import logs
from edged.cli import DEFAULT_CONFIG
from edged.cli.check import refuse
from edged.config import load
from edged.daemon import run as run_daemon


def run(args: argparse.Namespace) -> int:
    """Ends with 0 after a signal; an unexpected error passes through and ends the process with 1."""
    faulthandler.enable()  # a watchdog's SIGABRT leaves every thread's stack in the journal
    file = args.config or DEFAULT_CONFIG
    config = load(file)
    refuse(config, file)
    logs.setup(config.log)
    return asyncio.run(run_daemon(config, file))
