"""`starling serve`: set-up, Triton beside the gateway where none is given, one or several gateway processes."""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import shutil
import signal
import sys
from collections.abc import Sequence
from contextlib import AsyncExitStack, suppress
from pathlib import Path

import structlog
import uvloop

from launcher.errors import LauncherError
from launcher.paths import SOURCE_ROOT, Paths
from launcher.ports import check_free
from launcher.progress import Reporter
from launcher.setup import Installation, set_up
from launcher.supervisor import TritonSupervisor
from launcher.triton import TritonOptions
from server import log as logs
from server.app import App
from server.config import ConfigError, Settings, is_loopback, load

log = structlog.get_logger(__name__)

WORKER = "STARLING_INTERNAL_WORKER"
"""Set for the processes that `--workers` starts: the number of the process that started them."""

RESTART_PAUSE_S = 1.0

STOP_SLACK_S = 1.5
"""Beyond the drain time, before a worker that does not end is killed."""

GC_THRESHOLD = (10_000, 10, 10)
"""Python's collector of reference cycles looks for them less often than by itself, where the first is 700: there are
few, and every search stops the loop."""

SAMPLE = SOURCE_ROOT / "tests" / "data" / "audio" / "two_cities.wav"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds what is often set on the command line; everything else comes from the environment."""
    parser.add_argument("--host", help="address to listen on (default 127.0.0.1)")
    parser.add_argument("--port", type=int, help="port to listen on (default 8000)")
    parser.add_argument("--workers", type=int, help="gateway processes that share the port (default 1)")


def serve_command(argv: Sequence[str]) -> int:
    """Runs the server until it is told to stop; the exit status of the process."""
    parser = argparse.ArgumentParser(prog="starling serve", description="Run the server on this machine.")
    add_options(parser)
    options = {name: value for name, value in vars(parser.parse_args(argv)).items() if value is not None}
    try:
        settings = load(**options)
        check_exposure(settings)
        logs.configure(settings)
        return run(settings)
    except (ConfigError, LauncherError) as error:
        print(f"starling: {error}", file=sys.stderr)
        return os.EX_CONFIG if WORKER in os.environ else 1
    except OSError as error:
        print(f"starling: {explain_os_error(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def check_exposure(settings: Settings) -> None:
    """Refuses to be reachable by others without keys, unless told to."""
    if is_loopback(settings.host) or settings.keys_file is not None or settings.allow_no_keys:
        return
    raise ConfigError(
        f"{settings.host} can be reached by others and no keys are set: make one with `starling keys add NAME` and "
        "set STARLING_KEYS_FILE, or set STARLING_ALLOW_NO_KEYS=true"
    )


def explain_os_error(error: OSError) -> str:
    """One line that says what to do."""
    if "address already in use" in str(error):
        return "the port is in use: stop what uses it, or choose another with STARLING_PORT (or --port)"
    return str(error)


def run(settings: Settings) -> int:
    """Sets up, then serves."""
    paths = Paths(settings.cache_dir.expanduser().absolute(), settings.state_dir.expanduser().absolute())
    paths.state.mkdir(parents=True, exist_ok=True)
    if settings.workers > 1 and WORKER not in os.environ:
        _check_workers(settings)
    installation = None
    if not settings.triton_addresses and WORKER not in os.environ:
        installation = set_up(paths, Reporter())
    return uvloop.run(_serve(settings, installation))


async def _serve(settings: Settings, installation: Installation | None) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    if WORKER in os.environ:
        _stop_with_parent(stop, int(os.environ[WORKER]))
    async with AsyncExitStack() as stack:
        addresses = settings.triton_addresses
        if installation is not None:
            addresses = [await _start_triton(settings, installation, stack)]
        if settings.workers > 1 and WORKER not in os.environ:
            return await _run_workers(settings, addresses, stop)
        app = App(settings, list(addresses))
        await app.run(stop, lambda app: _on_ready(settings, app))
    return 0


def _on_ready(settings: Settings, app: App) -> None:
    # All that was imported lives to the end: looked through in every full collection, it stops the loop for 100 ms.
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLD)
    _say_ready(settings, app)


async def _start_triton(settings: Settings, installation: Installation, stack: AsyncExitStack) -> str:
    options = TritonOptions(
        http_port=settings.triton_http_port,
        grpc_port=settings.triton_grpc_port,
        metrics_port=settings.triton_metrics_port,
        gpu=settings.triton_device == "cuda",
    )
    log.info("starting Triton", grpc=options.grpc_url, log=str(installation.paths.triton_log))
    await stack.enter_async_context(TritonSupervisor(installation.triton_process(options)))
    return options.grpc_url


async def _run_workers(settings: Settings, addresses: list[str], stop: asyncio.Event) -> int:
    """Runs the gateway processes; one that dies is started again, one that refuses its settings ends them all."""
    environment = {
        **os.environ,
        WORKER: str(os.getpid()),
        "STARLING_HOST": settings.host,
        "STARLING_PORT": str(settings.port),
        # Also tells the workers to share the port.
        "STARLING_WORKERS": str(settings.workers),
        "STARLING_TRITON_ADDRESSES": json.dumps(list(addresses)),
    }

    async def keep(number: int) -> int:
        while True:
            worker = await asyncio.create_subprocess_exec(sys.executable, "-m", "server", env=environment)
            ended, stopped = asyncio.create_task(worker.wait()), asyncio.create_task(stop.wait())
            await asyncio.wait({ended, stopped}, return_when=asyncio.FIRST_COMPLETED)
            stopped.cancel()
            if stop.is_set():
                await _end(worker, settings.drain_s + STOP_SLACK_S)
                return 0
            if worker.returncode == os.EX_CONFIG:
                stop.set()
                return 1
            log.error("gateway process died: starting another", worker=number, status=worker.returncode)
            with suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), RESTART_PAUSE_S)
                return 0

    return max(await asyncio.gather(*(keep(number) for number in range(settings.workers))))


async def _end(worker: asyncio.subprocess.Process, timeout_s: float) -> None:
    """Has a worker drain, and ends it by force where it does not come to an end."""
    with suppress(ProcessLookupError):
        worker.terminate()
    try:
        await asyncio.wait_for(worker.wait(), timeout_s)
    except TimeoutError:
        with suppress(ProcessLookupError):
            worker.kill()
        await worker.wait()


def _stop_with_parent(stop: asyncio.Event, parent: int) -> None:
    """A worker whose parent is gone, killed perhaps, would hold the port with nobody to end it."""
    watch = os.pidfd_open(parent)
    loop = asyncio.get_running_loop()

    def gone() -> None:
        loop.remove_reader(watch)
        stop.set()

    loop.add_reader(watch, gone)
    if os.getppid() != parent:
        gone()


def _check_workers(settings: Settings) -> None:
    """Refuses what several processes could not share.

    Raises:
        ConfigError: there is no one port or no one store for them.
        LauncherError: somebody else listens on the port; who shares it would share the clients.
    """
    if settings.port == 0:
        raise ConfigError("STARLING_PORT: workers share one port, so 0 will not do: choose one")
    for name, url in (
        ("STARLING_SESSION_STORE", settings.session_store_url),
        ("STARLING_TRANSCRIPT_STORE", settings.transcript_store_url),
    ):
        if url.startswith("memory:"):
            raise ConfigError(f"{name}: memory:// is one process's own and workers share: leave it empty for SQLite")
    check_free(settings.port, "the gateway's", "STARLING_PORT", settings.host)


def _say_ready(settings: Settings, app: App) -> None:
    scheme = "wss" if settings.tls_certificate else "ws"
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    url = f"{scheme}://{host}:{app.gateway.port}/stream"
    log.info("ready", url=url, languages=len(settings.languages))
    if WORKER in os.environ or not sys.stdout.isatty():
        return
    command = "starling" if shutil.which("starling") else os.path.relpath(Path(sys.executable).with_name("starling"))
    option = "" if app.gateway.port == 8000 else f" --url {url}"
    sample = os.path.relpath(SAMPLE) if SAMPLE.exists() else "FILE.wav"
    print(
        f"\nListening on {url}. Try, in a second terminal:\n\n    {command} transcribe {sample}{option}\n", flush=True
    )
