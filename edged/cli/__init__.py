"""The commands a person types. Exit codes: 0 done; 1 something is wrong (said in one sentence); 2 wrong usage; 78 wrong configuration."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Callable, Sequence
from pathlib import Path

from edged import __version__

DEFAULT_CONFIG = Path("/etc/edged/edged.toml")


def parser() -> argparse.ArgumentParser:
    """Each command names the module that does it as `module:function`; it is imported only when asked for."""
    top = argparse.ArgumentParser(prog="edged", description="Judges inspection images from drop folders and tells the plant.")
    top.add_argument("--version", action="version", version=f"edged {__version__}")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, does: str, about: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=about, description=about)
        sub.set_defaults(does=does)
        sub.add_argument("--config", type=Path, default=None, metavar="FILE", help=f"the configuration (default {DEFAULT_CONFIG})")
        sub.add_argument("--json", action="store_true", help="machine-readable output")
        return sub

    command("run", "run:run", "run the daemon in the foreground; systemd and SIGTERM end it")
    command("check-config", "check:check_config", "list everything that is wrong with the configuration, and what it will do")
    command("doctor", "doctor:doctor", "look at this machine and at every peer, and say what would not work")
    _remote(command("status", "remote:status", "what the running daemon is doing, and what is wrong"))
    tail = command("tail", "remote:tail", "print each result as it is recorded")
    _remote(tail)
    tail.add_argument("-n", type=int, default=10, metavar="N", help="begin with the last N results (default 10)")
    tail.add_argument("--once", action="store_true", help="print those and end")
    trace = command("trace", "remote:trace", "one file's timeline: seen, settled, judged, recorded, delivered, or why not")
    _remote(trace)
    of = trace.add_mutually_exclusive_group(required=True)
    of.add_argument("name", metavar="NAME", nargs="?", help="a file name, or its path below the camera's folder")
    of.add_argument("--lot", metavar="LOT", help="the results of a lot, in place of a file")

    _acting(command)

    identify = command("identify", "offline:identify", "show which lot, wafer and die file names and sidecars tell, before go-live")
    identify.add_argument("--camera", metavar="NAME", help="as this camera does (default: the one whose folder it is, else the first)")
    identify.add_argument("files", nargs="+", metavar="FILE", help="an image, or only a name: it need not exist")

    infer = command("infer", "infer:infer", "judge files as the daemon would, without recording or publishing anything")
    infer.add_argument("--recipe", metavar="R", help="judge with this recipe, or with the model of that name")
    infer.add_argument("--camera", metavar="NAME", help="tell identity as this camera does")
    infer.add_argument("--reference", type=Path, metavar="FILE", help="the golden reference of all the files")
    infer.add_argument("--triton", metavar="HOST:PORT", help="the gRPC address of Triton (default: [triton] endpoints)")
    infer.add_argument("files", nargs="+", type=Path, metavar="FILE")

    simulate = command("simulate", "simulate:simulate", "play an inspection tool: drop images into a folder")
    simulate.add_argument("folder", type=Path, metavar="FOLDER", help="where the images are dropped")
    simulate.add_argument("--from", dest="source", type=Path, metavar="DIR", help="images to drop; without it dies are generated")
    simulate.add_argument("--count", type=int, default=100, metavar="N", help="how many (default 100; 0: until stopped)")
    simulate.add_argument("--rate", type=float, default=5.0, metavar="PER_S", help="images per second (default 5)")
    simulate.add_argument("--style", action="append", choices=["rename", "slow", "inplace", "preallocated"], help="how files are written")
    simulate.add_argument("--faults", type=float, default=0.0, metavar="SHARE", help="share of truncated and corrupt files, 0..1")
    simulate.add_argument("--seed", type=int, default=1)

    _cameras(command("cameras", "act:cameras", "give a camera's past to its new name; pause it; let it go on"))
    _database(command("db", "db:db", "look at the ledger's file, copy it, make it small"))
    command("schema", "offline:schema", "print the JSON Schema of the result message")
    return top


def _acting(command: Callable[[str, str, str], argparse.ArgumentParser]) -> None:
    """What changes the ledger, asked of the running daemon."""
    again = command("rejudge", "act:rejudge", "judge a recorded image again: a new result that supersedes the one before")
    _remote(again)
    again.add_argument("image", metavar="ID|NAME", help="a result's id, or the image's name")
    again.add_argument("--recipe", metavar="R", help="by this recipe, in place of the one it was judged by")
    _waits(again)
    once_more = command("republish", "act:republish", "send a recorded result once more: the same id, the same body")
    _remote(once_more)
    once_more.add_argument("id", metavar="ID", help="the result's id, as edged trace tells it")
    outbox = command("outbox", "act:outbox", "what waits for delivery, and what is parked and why; retry sends what is parked once more")
    _remote(outbox)
    outbox.add_argument("action", nargs="?", choices=["list", "retry"], default="list")
    quarantine = command("quarantine", "act:quarantine", "list rejected images, or release one: judge its kept copy again")
    _remote(quarantine)
    quarantine.add_argument("action", nargs="?", choices=["list", "release"], default="list")
    quarantine.add_argument("id", nargs="?", metavar="ID", help="of the result to release")
    quarantine.add_argument("-n", type=_count, default=100, metavar="N", help="list the newest N (default 100)")
    _waits(quarantine)
    quarantine.set_defaults(wrong=quarantine.error)
    audit = command("audit", "act:audit", "who changed what, newest first")
    _remote(audit)
    audit.add_argument("-n", type=_count, default=50, metavar="N", help="the newest N (default 50, at most 500)")


def _cameras(sub: argparse.ArgumentParser) -> None:
    _remote(sub)
    verbs = sub.add_subparsers(dest="verb", required=True, metavar="VERB")
    rename = verbs.add_parser("rename", help="what is recorded of camera OLD is NEW's from now on; the daemon must be stopped")
    rename.set_defaults(does="rename:rename")
    rename.add_argument("old", metavar="OLD", help="the name that the configuration no longer has")
    rename.add_argument("new", metavar="NEW", help="the name that it has now")
    for verb, about in (("pause", "judge nothing of a camera until it is resumed"), ("resume", "let a paused or held camera go on")):
        verbs.add_parser(verb, help=about + "; asks the running daemon, with --token-file").add_argument("name", metavar="CAMERA")


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is no number above 0")
    return int(text)


def _waits(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--wait", type=float, default=30.0, metavar="S", help="wait so long for the result (default 30; 0: not at all)")


def _database(sub: argparse.ArgumentParser) -> None:
    verbs = sub.add_subparsers(dest="verb", required=True, metavar="VERB")
    check = verbs.add_parser("check", help="read the whole ledger and say what is wrong with it; the daemon may run")
    check.add_argument("--rebuild", action="store_true", help="if it is damaged, the daemon's next start sets it aside and rebuilds it")
    backup = verbs.add_parser("backup", help="copy the ledger to a file; the daemon may run")
    backup.add_argument("file", type=Path, metavar="FILE", help="the copy; one that is there is not replaced")
    backup.add_argument("--force", action="store_true", help="replace it")
    vacuum = verbs.add_parser("vacuum", help="give free pages back to the disk; the daemon must be stopped")
    for verb in (check, backup, vacuum):
        verb.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="machine-readable output")


def _remote(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--url", metavar="URL", help="the daemon's address (default: [http] bind of the configuration)")
    sub.add_argument("--token-file", type=Path, metavar="FILE", help="a file with the token to show, where one is needed")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command of `argv`; returns the exit code. ConfigError passes through."""
    args = parser().parse_args(argv)
    module, function = args.does.split(":")
    return int(getattr(importlib.import_module(f"edged.cli.{module}"), function)(args))
