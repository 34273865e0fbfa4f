"""The commands that ask the running daemon: what they say when nobody, or somebody else, answers, and what they load."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

EDGED = Path(sys.executable).with_name("edged")


def edged(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(EDGED), *words], capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture
def other(request: pytest.FixtureRequest) -> Iterator[str]:
    """The address of a program that is no edged, and answers each connection with the same bytes."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            try:
                while True:
                    connection, _ = listener.accept()
                    with connection:
                        connection.recv(65_536)
                        connection.sendall(request.param)
            except OSError:
                return

        thread = threading.Thread(target=answer)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)
    thread.join(10)


PAGE = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 2\r\n\r\nhi"
PROXY = b"HTTP/1.1 502 Bad Gateway\r\nContent-Type: text/html\r\nContent-Length: 2\r\n\r\nno"


@pytest.mark.parametrize(
    ("other", "says"),
    [(b"\x20\x02\x00\x05", "is unavailable"), (PAGE, "another program answers there"), (PROXY, "Bad Gateway"), (b"", "is unavailable")],
    indirect=["other"],
    ids=["no HTTP", "a page", "a proxy", "nothing"],
)
def test_what_is_no_edged_at_the_address_is_told_in_one_sentence(other: str, says: str) -> None:
    ended = edged("status", "--url", other)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert says in ended.stderr
    assert ended.stderr.count("\n") == 1


@pytest.mark.parametrize(("text", "says"), [(None, "No such file"), (b"one two", "it holds 2 words"), (b"\xff", "not plain text")])
def test_a_token_file_that_cannot_be_used_is_told_in_one_sentence_without_its_content(
    tmp_path: Path, text: bytes | None, says: str
) -> None:
    file = tmp_path / "token"
    if text is not None:
        file.write_bytes(text)
    ended = edged("outbox", "retry", "--url", "http://127.0.0.1:1", "--token-file", str(file))
    assert ended.returncode == 1
    assert says in ended.stderr
    assert "one two" not in ended.stderr
    assert ended.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "words", ["trace", "trace a.png --lot L1", "quarantine release", "quarantine list 0b", "audit -n 0", "cameras", "republish", "db"]
)
def test_a_command_that_says_too_little_or_too_much_is_wrong_usage(words: str) -> None:
    ended = edged(*words.split())
    assert ended.returncode == 2
    assert "usage: edged " + words.split(maxsplit=1)[0] in ended.stderr


@pytest.mark.parametrize("words", ["status", "trace a.png", "tail --once", "rejudge a.png", "outbox", "cameras pause cam1"])
def test_asking_the_daemon_loads_neither_the_sections_of_the_configuration_nor_numpy(words: str, tmp_path: Path) -> None:
    config = tmp_path / "edged.toml"
    config.write_text('[http]\nbind = "127.0.0.1:1"\n[nonsense]\n')
    argv = (
        [*words.split(), "--config", str(config)]
        if not words.startswith("cameras")
        else ["cameras", "--config", str(config), *words.split()[1:]]
    )
    code = (
        "import sys\nfrom edged.cli import main\nfrom edged.errors import Unavailable\n"
        f"try:\n    main({argv!r})\nexcept Unavailable as away:\n    assert '127.0.0.1:1 ' in str(away), away\n"
        "print(sorted({'numpy', 'pydantic', 'cv2', 'asyncio', 'structlog', 'aiohttp'} & set(sys.modules)))\n"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True).stdout == "[]\n"
