"""Real processes: started, spoken to, lost, ended, reaped.  Events only; nothing sleeps."""

import asyncio
import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import uvloop

from repertory.domain.errors import ConfigError
from repertory.fleet import child as child_module
from repertory.fleet.child import LOG_BYTES, Child, WorkerCommand
from repertory.fleet.identity import (
    ProcessIdentity,
    hold_state,
    identify,
    reap_orphans,
    remember_worker,
)
from repertory.fleet.local import LocalFleet, Loss, RestartPolicy

AT_ONCE = RestartPolicy(first_s=0.0)
LOOPS = [asyncio.SelectorEventLoop, uvloop.new_event_loop]
ECHO = """
import os, socket, sys
connection = socket.socket(fileno=int(sys.argv[1]))
print("ready", os.environ.get("COLOUR"), flush=True)
while data := connection.recv(100):
    connection.sendall(data.upper())
"""
STUBBORN = """
import signal, socket, sys, threading
signal.signal(signal.SIGTERM, signal.SIG_IGN)
socket.socket(fileno=int(sys.argv[1])).sendall(b"!")
threading.Event().wait()
"""
FERTILE = """
import socket, subprocess, sys, threading
child = subprocess.Popen([sys.executable, "-c", "import threading; threading.Event().wait()"])
socket.socket(fileno=int(sys.argv[1])).sendall(b"%d\\n" % child.pid)
threading.Event().wait()
"""
CRASHING = "import sys; sys.exit('boom')"


def command(script: str, name: str = "w", **environment: str) -> WorkerCommand:
    return WorkerCommand(name, (sys.executable, "-c", script, "{fd}"), environment)


@contextmanager
def handle_on(pid: int) -> Iterator[int]:
    handle = os.pidfd_open(pid)
    try:
        yield handle
    finally:
        os.close(handle)


def ends(handle: int, bound_s: float = 20.0) -> bool:
    """Wait until the process of this handle has ended; an event, bounded."""
    poll = select.poll()
    poll.register(handle, select.POLLIN)
    return bool(poll.poll(bound_s * 1000))


class Watch:
    """What supervision told."""

    def __init__(self) -> None:
        self.children: asyncio.Queue[Child] = asyncio.Queue()
        self.losses: asyncio.Queue[Loss] = asyncio.Queue()


# One worker.


@pytest.mark.parametrize("loop", LOOPS)
def test_a_worker_is_spoken_to_and_stopped(
    tmp_path: Path, loop: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    async def main() -> None:
        watch = Watch()
        async with LocalFleet(tmp_path) as fleet:
            worker = fleet.keep(
                command(ECHO, COLOUR="red"),
                on_up=watch.children.put_nowait,
                on_lost=watch.losses.put_nowait,
            )
            child = await watch.children.get()
            child.writer.write(b"hello")
            assert await child.reader.readexactly(5) == b"HELLO"
            record = json.loads((tmp_path / "workers" / "w.json").read_text())
            mine = identify(child.pid, command(ECHO).arguments)
            assert mine is not None
            assert record == asdict(mine)
            assert os.getpgid(child.pid) == child.pid
            with handle_on(child.pid) as handle:
                await worker.stop()
                assert ends(handle, 0.0)
        assert list((tmp_path / "workers").iterdir()) == []
        assert (tmp_path / "logs" / "w.log").read_text() == "ready red\n"
        assert watch.losses.empty()

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(main())


@pytest.mark.parametrize("loop", LOOPS)
def test_a_worker_that_dies_is_started_again(
    tmp_path: Path, loop: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    async def main() -> None:
        watch = Watch()
        async with LocalFleet(tmp_path, policy=AT_ONCE) as fleet:
            fleet.keep(
                command(ECHO), on_up=watch.children.put_nowait, on_lost=watch.losses.put_nowait
            )
            first = await watch.children.get()
            first.writer.write(b"x")
            await first.reader.readexactly(1)
            os.kill(first.pid, signal.SIGABRT)
            loss = await watch.losses.get()
            assert loss.reason == (
                "killed by SIGABRT; its last words: ready None; starts again in 0 s"
            )
            second = await watch.children.get()
            assert second.pid != first.pid
            assert await first.reader.read() == b""
            second.writer.write(b"again")
            assert await second.reader.readexactly(5) == b"AGAIN"

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(main())


def test_a_loss_tells_code_and_last_words_of_this_run_only(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "w.log").write_text("of an earlier run\n")

    async def main() -> None:
        watch = Watch()
        async with LocalFleet(tmp_path) as fleet:
            fleet.keep(command(CRASHING), on_up=lambda _: None, on_lost=watch.losses.put_nowait)
            loss = await watch.losses.get()
            assert loss.reason == (
                "ended with exit code 1; its last words: boom; starts again in 0.2 s"
            )
            assert not (tmp_path / "workers" / "w.json").exists()

    asyncio.run(main())


def test_a_program_that_is_none_is_named(tmp_path: Path) -> None:
    async def main() -> None:
        watch = Watch()
        async with LocalFleet(tmp_path) as fleet:
            fleet.keep(
                WorkerCommand("w", ("/no/such/program",)),
                on_up=lambda _: None,
                on_lost=watch.losses.put_nowait,
            )
            loss = await watch.losses.get()
            assert "cannot run /no/such/program: No such file or directory" in loss.reason

    asyncio.run(main())


def test_a_worker_that_will_not_end_is_killed(tmp_path: Path) -> None:
    async def main() -> None:
        watch = Watch()
        async with LocalFleet(tmp_path, stop_bound_s=0.05) as fleet:
            worker = fleet.keep(
                command(STUBBORN), on_up=watch.children.put_nowait, on_lost=watch.losses.put_nowait
            )
            child = await watch.children.get()
            await child.reader.readexactly(1)
            with handle_on(child.pid) as handle:
                await worker.stop()
                assert ends(handle, 0.0)

    asyncio.run(main())


def test_what_a_crashed_worker_started_goes_with_it(tmp_path: Path) -> None:
    async def main() -> None:
        watch = Watch()
        async with LocalFleet(tmp_path) as fleet:
            fleet.keep(
                command(FERTILE), on_up=watch.children.put_nowait, on_lost=watch.losses.put_nowait
            )
            child = await watch.children.get()
            with handle_on(int(await child.reader.readline())) as grandchild:
                assert not ends(grandchild, 0.0)
                os.kill(child.pid, signal.SIGKILL)
                loss = await watch.losses.get()
                assert "killed by SIGKILL, not by us" in loss.reason
                assert ends(grandchild)

    asyncio.run(main())


def test_a_long_log_is_set_aside_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    with open(tmp_path / "logs" / "w.log", "wb") as file:
        file.truncate(LOG_BYTES + 1)

    async def main() -> None:
        watch = Watch()
        async with LocalFleet(tmp_path) as fleet:
            fleet.keep(command(CRASHING), on_up=lambda _: None, on_lost=watch.losses.put_nowait)
            await watch.losses.get()

    asyncio.run(main())
    assert (tmp_path / "logs" / "w.log").read_text() == "boom\n"
    assert (tmp_path / "logs" / "w.log.1").stat().st_size == LOG_BYTES + 1


# A server that is killed.

SERVER = f"""
import asyncio, sys
from pathlib import Path
from repertory.fleet.local import LocalFleet, WorkerCommand

async def main():
    async with LocalFleet(Path(sys.argv[1])) as fleet:
        command = WorkerCommand("w", (sys.executable, "-c", {STUBBORN!r}, "{{fd}}"))
        children = asyncio.Queue()
        fleet.keep(command, on_up=children.put_nowait, on_lost=print)
        child = await children.get()
        await child.reader.readexactly(1)
        print(child.pid, flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""
CARELESS_SERVER = """
import subprocess, sys, threading
from pathlib import Path
from repertory.fleet.identity import hold_state, identify, remember_worker

with hold_state(Path(sys.argv[1])):
    child = subprocess.Popen([sys.executable, "-c", sys.argv[2]], stdout=subprocess.PIPE,
                             start_new_session=True)
    remember_worker(Path(sys.argv[1]), "w", identify(child.pid, ["w"]))
    child.stdout.readline()
    print(child.pid, flush=True)
    threading.Event().wait()
"""
OBEDIENT_ORPHAN = "import threading; print(1, flush=True); threading.Event().wait()"
STUBBORN_ORPHAN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN);" + OBEDIENT_ORPHAN


@contextmanager
def server(script: str, *arguments: str) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """A server in a process of its own, and a handle on its worker; both gone at the end."""
    process = subprocess.Popen([sys.executable, "-c", script, *arguments], stdout=subprocess.PIPE)
    with process:
        assert process.stdout is not None
        try:
            with handle_on(int(process.stdout.readline())) as worker:
                try:
                    yield process, worker
                finally:
                    if not ends(worker, 0.0):
                        signal.pidfd_send_signal(worker, signal.SIGKILL)
        finally:
            process.kill()


def test_workers_die_with_a_server_that_is_killed(tmp_path: Path) -> None:
    with server(SERVER, str(tmp_path)) as (process, worker):
        assert not ends(worker, 0.0)
        process.kill()
        assert ends(worker)
    assert (tmp_path / "workers" / "w.json").exists()

    async def successor() -> None:
        async with LocalFleet(tmp_path) as fleet:
            assert fleet.reaped == ()
        assert list((tmp_path / "workers").iterdir()) == []

    asyncio.run(successor())


@pytest.mark.parametrize(
    ("orphan", "signal_name"), [(OBEDIENT_ORPHAN, "SIGTERM"), (STUBBORN_ORPHAN, "SIGKILL")]
)
def test_the_next_server_ends_the_orphans_of_a_killed_one(
    tmp_path: Path, orphan: str, signal_name: str
) -> None:
    with server(CARELESS_SERVER, str(tmp_path), orphan) as (process, worker):
        process.kill()
        process.wait()
        assert not ends(worker, 0.0)

        async def successor() -> None:
            bound_s = 20.0 if signal_name == "SIGTERM" else 0.05
            async with LocalFleet(tmp_path, stop_bound_s=bound_s) as fleet:
                assert [(one.name, one.signal_name) for one in fleet.reaped] == [("w", signal_name)]
                assert ends(worker, 0.0)
            assert list((tmp_path / "workers").iterdir()) == []

        asyncio.run(successor())


def test_the_leash_notices_a_server_that_died_before_it_was_on(tmp_path: Path) -> None:
    from repertory.fleet import leash

    done = subprocess.run(
        [sys.executable, "-I", "-S", leash.__file__, "1", "echo", "never"],
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, b"")
    assert b"the server is gone" in done.stderr


# Whom not to kill.


@contextmanager
def bystander() -> Iterator[tuple[ProcessIdentity, int]]:
    """A process that nobody may touch."""
    process = subprocess.Popen([sys.executable, "-c", OBEDIENT_ORPHAN], stdout=subprocess.PIPE)
    with process:
        assert process.stdout is not None
        process.stdout.readline()
        identity = identify(process.pid)
        assert identity is not None
        try:
            with handle_on(process.pid) as handle:
                yield identity, handle
        finally:
            process.kill()


def test_a_process_with_a_used_again_id_is_left_alone(tmp_path: Path) -> None:
    with bystander() as (identity, handle):
        for other in (
            replace(identity, started_ticks=identity.started_ticks - 1),
            replace(identity, boot="another boot"),
        ):
            remember_worker(tmp_path, "w", other)
            assert reap_orphans(tmp_path) == []
            assert not ends(handle, 0.0)
            assert list((tmp_path / "workers").iterdir()) == []
        remember_worker(tmp_path, "w", identity)
        assert [one.pid for one in reap_orphans(tmp_path)] == [identity.pid]


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{}",
        '{"pid": 1, "started_ticks": 1, "boot": "x", "command_digest": ""}',
        '{"pid": -1, "started_ticks": 1, "boot": "x", "command_digest": ""}',
        '{"pid": true, "started_ticks": 1, "boot": "x", "command_digest": ""}',
        '{"pid": "5", "started_ticks": 1, "boot": "x", "command_digest": ""}',
        '{"pid": 5, "started_ticks": 1, "boot": "x", "command_digest": "", "more": 1}',
        "\xff",
    ],
)
def test_a_record_that_is_not_ours_kills_nobody(tmp_path: Path, content: str) -> None:
    (tmp_path / "workers").mkdir()
    (tmp_path / "workers" / "w.json").write_bytes(content.encode("latin-1"))
    assert reap_orphans(tmp_path) == []
    assert list((tmp_path / "workers").iterdir()) == []


def test_nobody_is_identified_where_there_is_nobody() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    assert identify(process.pid) is None
    assert identify(os.getpid()) == identify(os.getpid())


# One server per state folder.


def test_a_second_server_is_refused_and_told_of_the_first(tmp_path: Path) -> None:
    with server(SERVER, str(tmp_path)) as (process, worker):

        async def second() -> None:
            async with LocalFleet(tmp_path):
                raise AssertionError

        with pytest.raises(ConfigError, match=f"server with process id {process.pid} works on"):
            asyncio.run(second())
        assert not ends(worker, 0.0)


def test_the_folder_is_free_again_afterwards(tmp_path: Path) -> None:
    for _ in range(2):
        with (
            hold_state(tmp_path),
            pytest.raises(ConfigError, match=str(os.getpid())),
            hold_state(tmp_path),
        ):
            raise AssertionError


def test_a_state_folder_that_cannot_be_is_the_operator_s_mistake(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(ConfigError, match="cannot keep state here"),
        hold_state(tmp_path / "file" / "state"),
    ):
        raise AssertionError


def test_a_log_is_cut_while_its_worker_goes_on_writing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The words before are in `NAME.log.1`, those after are its last words."""
    monkeypatch.setattr(child_module, "LOG_BYTES", 1000)
    script = (
        "import socket, sys\n"
        "link = socket.socket(fileno=int(sys.argv[1]))\n"
        "print('early ' * 300, flush=True)\n"
        "link.send(b'.')\n"
        "link.recv(1)\n"
        "print('late', flush=True)\n"
    )

    async def play() -> None:
        command = WorkerCommand("worker", (sys.executable, "-c", script, "{fd}"))
        child = await child_module.spawn(command, tmp_path)
        await child.reader.readexactly(1)
        child.bound_log()
        assert (tmp_path / "logs/worker.log").stat().st_size == 0
        child.writer.write(b".")
        await child.wait()
        child.writer.close()
        assert child.last_words() == "late"
        assert (tmp_path / "logs/worker.log.1").read_text().startswith("early")
        child.bound_log()
        assert child.last_words() == "late", "a short log is left alone"

    asyncio.run(play())
