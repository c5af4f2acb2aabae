"""The whole suite on this machine: LLM service, SSM service and router as three supervised processes. Used by the CLI and from Python.

    with Suite(SuiteConfig(llm_folder=folder)) as suite, Client(suite.address) as client: ...

A service that dies is started again, and the router replays what it had decided: clients don't notice, except by the time it takes.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Self

from specgrove.addresses import next_ports
from specgrove.config import DEFAULT_DTYPE, DEFAULT_SSMS
from specgrove.machine.cpus import available_cpus
from specgrove.machine.owned_folders import temporary_folder
from specgrove.settings import DRAIN, SECTIONS, SuiteSettings
from specgrove.suite.readiness import is_serving, knows_ssms
from specgrove.suite.supervisor import LogLine, ProcessSpec, Supervisor

# What a service that has drained takes to close its connections and threads, before it is killed.
_END_TIMEOUT_S = 10.0
# What an SSM service takes at most that is ready, until the router has it: services start without, if need be.
_CONNECTION_LIMIT_S = 5.0
_HEALTH_INTERVAL_S = 0.1
# Origins are of no use without the HTTP address.
_LOCAL = "--local-address"
_OF_ONE_ROUTER = ("--http-address", "--http-allowed-origins", "--health-address", _LOCAL)

Progress = Callable[[tuple[str, ...]], None]
"""Called several times a second with the names of the services that are not ready yet."""


@dataclass(frozen=True, slots=True)
class SuiteConfig:
    """What to serve and how.

    Without ``ssms`` there is no SSM service, and decoding is incremental. ``address`` is the router's, ``host:port`` or
    ``unix:/path``; ``None`` takes a private unix socket. ``num_threads`` is given to both model services, which compute in
    turns; ``None`` takes all cores this process may use. LLM replicas share them.
    Routers beyond the first have private unix sockets (``Suite.router_addresses``), and neither metrics, HTTP nor an address for
    health checks.
    ``metrics_address`` is ``host:port`` of the router's metrics; the next ports are the SSM service's and the LLM services'.
    ``drain_timeout_s`` is the time that requests may go on after ``stop``. ``start_timeout_s`` is the time that all services may
    take to get ready; ``None``: as long as they are alive, since large models load for minutes. All other settings are given to
    the services as on their command lines (``specgrove.settings``), such as ``llm_arguments=("--kv-slots", "4096")``.
    """

    llm_folder: Path
    ssms: tuple[str, ...] = DEFAULT_SSMS
    dtype: str = DEFAULT_DTYPE
    address: str | None = None
    num_llm_replicas: int = 1
    num_threads: int | None = None
    start_timeout_s: float | None = None
    drain_timeout_s: float = DRAIN.default
    llm_arguments: tuple[str, ...] = ()
    ssm_arguments: tuple[str, ...] = ()
    router_arguments: tuple[str, ...] = ()
    metrics_address: str | None = None
    num_routers: int = 1

    def __post_init__(self) -> None:
        """Raises ``ValueError`` for a text where several are expected: its letters would be taken for them."""
        self.metrics_addresses()
        for name in ("ssms", "llm_arguments", "ssm_arguments", "router_arguments"):
            if isinstance(value := getattr(self, name), str):
                raise ValueError(f"{name} must be several texts, e.g. ({value!r},), got {value!r}")

    def metrics_addresses(self) -> dict[str, str]:
        """By service; empty where there are none. The LLM services come last: there may be more of them another time."""
        if self.metrics_address is None:
            return {}
        services = ("router", "ssm_service", *llm_names(self.num_llm_replicas))
        return dict(zip(services, next_ports(self.metrics_address, len(services)), strict=True))


def config_of(
    settings: SuiteSettings, llm_folder: Path, ssms: tuple[str, ...], address: str | None = None
) -> SuiteConfig:
    """For a suite with these settings; the models are found, fetched and quantised already. ``address`` is the router's."""
    dtype, num_threads = settings["llm", "dtype"], settings["llm", "threads"]
    # What both model services have alike is the suite's; here is what is the SSM service's alone.
    own = {"--dtype": settings["ssm", "dtype"], "--threads": str(settings["ssm", "threads"])}
    alike = {"--dtype": dtype, "--threads": str(num_threads)}
    ssm_own = tuple(word for flag, value in own.items() if value != alike[flag] for word in (flag, value))
    return SuiteConfig(
        llm_folder=llm_folder,
        ssms=ssms,
        dtype=dtype,
        address=address,
        num_llm_replicas=settings["", "llm-replicas"],
        num_threads=num_threads,
        start_timeout_s=settings["", "start-timeout-s"],
        drain_timeout_s=max(settings[section, DRAIN.name] for section in SECTIONS),
        llm_arguments=settings.arguments("llm", without=("model", "quantization", "dtype", "threads")),
        ssm_arguments=(*ssm_own, *settings.arguments("ssm", without=("ssm", "dtype", "threads"))),
        router_arguments=settings.arguments("router", without=("address",)),
        metrics_address=settings["", "metrics-address"],
    )


class NotReadyError(Exception):
    """The services did not become ready in time."""


class Suite:
    """The processes, from ``start`` to ``stop``. Use it in ``with``; one object runs once."""

    def __init__(self, config: SuiteConfig, log_line: LogLine | None = None, progress: Progress | None = None) -> None:
        """``log_line`` gets every line the services print, by service; by default they are dropped."""
        self._config = config
        self._progress = progress
        # The services find each other here; only this user may look in.
        self._folders = contextlib.ExitStack()
        routers = router_names(config.num_routers)
        names = (*llm_names(config.num_llm_replicas), *(("ssm_service",) if config.ssms else ()), *routers)
        sockets = {name: f"{name}.sock" for name in names}
        local_sockets = {name: f"{name}-local.sock" for name in routers}
        self._socket_folder = self._folders.enter_context(
            temporary_folder("specgrove-suite-", socket_names=(*sockets.values(), *local_sockets.values()))
        )
        self._addresses = {name: f"unix:{self._socket_folder}/{socket}" for name, socket in sockets.items()}
        self._addresses["router"] = config.address or self._addresses["router"]
        flags = {word.partition("=")[0] for word in config.router_arguments}
        is_guarded = bool({"--tls-certificate", "--api-key-file"} & flags)
        # Their own addresses want certificates or keys, the private ones of further routers, too.
        guarded = routers if is_guarded else ()
        self._local_addresses = {name: f"unix:{self._socket_folder}/{local_sockets[name]}" for name in guarded}
        if (given := value_of_flag(_LOCAL, config.router_arguments)) is not None:
            self._local_addresses["router"] = given
        specs = process_specs(config, self._addresses, self._local_addresses)
        self._supervisor = Supervisor(
            specs, log_line or (lambda name, line: None), config.drain_timeout_s + _END_TIMEOUT_S
        )

    @property
    def address(self) -> str:
        """The router's address, for clients."""
        return self._addresses["router"]

    @property
    def router_addresses(self) -> tuple[str, ...]:
        """All routers', for clients that go on at another one."""
        return tuple(self._addresses[name] for name in router_names(self._config.num_routers))

    @property
    def local_address(self) -> str:
        """The router's, for clients of this user on this machine; without encryption and keys."""
        return self._reachable("router")

    @property
    def local_addresses(self) -> tuple[str, ...]:
        """All routers', without encryption and keys."""
        return tuple(map(self._reachable, router_names(self._config.num_routers)))

    def address_of(self, service: str) -> str:
        """The address of ``router``, ``ssm_service``, ``llm_service`` or a further replica (``llm_service-2``)."""
        return self._addresses[service]

    def metrics_addresses(self) -> dict[str, str]:
        """Where the services tell their metrics, by service; empty where ``SuiteConfig`` names no address."""
        return self._config.metrics_addresses()

    def start(self) -> None:
        """Returns when all services are ready. Raises ``ProcessFailedError`` or ``NotReadyError``, with nothing left running."""
        self._supervisor.start()
        try:
            self._wait_until_ready(self._config.start_timeout_s)
        except BaseException:
            self.stop()
            raise
        self._supervisor.expect_up()

    def check(self) -> None:
        """Raises what ended the supervision of the services, if anything did."""
        self._supervisor.check()

    def pid(self, service: str) -> int | None:
        """The process id of a service; ``None`` between its end and its restart."""
        return self._supervisor.pid(service)

    def num_restarts(self, service: str) -> int:
        """How often a service was started again."""
        return self._supervisor.num_restarts(service)

    def stop(self) -> None:
        """Drains the router, then the services; kills what takes longer than the drain time."""
        self._supervisor.stop()
        self._folders.close()

    def kill(self) -> None:
        """Ends all at once, without draining."""
        self._supervisor.kill()

    def _reachable(self, service: str) -> str:
        return self._local_addresses.get(service, self._addresses[service])

    def _wait_until_ready(self, timeout_s: float | None) -> None:
        until_s = math.inf if timeout_s is None else time.monotonic() + timeout_s
        waiting = list(self._addresses)
        while waiting:
            self._supervisor.check()
            waiting = [service for service in waiting if not is_serving(self._reachable(service))]
            if self._progress is not None:
                self._progress(tuple(waiting))
            if waiting and time.monotonic() > until_s:
                raise NotReadyError(f"{', '.join(waiting)} not ready after {timeout_s:g} s")
            if waiting:
                time.sleep(_HEALTH_INTERVAL_S)
        # The first requests are to be drafted for, too. The router connects to a service some time after it is there.
        until_s = min(until_s, time.monotonic() + _CONNECTION_LIMIT_S)
        while "ssm_service" in self._addresses and not knows_ssms(self._reachable("router")):
            self._supervisor.check()
            if time.monotonic() > until_s:
                return
            time.sleep(_HEALTH_INTERVAL_S)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()


def llm_names(num_replicas: int) -> tuple[str, ...]:
    """What the LLM service's replicas are called: ``llm_service``, ``llm_service-2``, …"""
    return ("llm_service", *(f"llm_service-{number}" for number in range(2, num_replicas + 1)))


def router_names(num_routers: int) -> tuple[str, ...]:
    """What the routers are called: ``router``, ``router-2``, …"""
    return ("router", *(f"router-{number}" for number in range(2, num_routers + 1)))


def section_of(name: str) -> str:
    """Of a service's name the section of its settings: ``llm`` of ``llm_service-2``."""
    return name.partition("-")[0].partition("_")[0]


def process_specs(
    config: SuiteConfig, addresses: Mapping[str, str], local_addresses: Mapping[str, str] = MappingProxyType({})
) -> tuple[ProcessSpec, ...]:
    """All processes in the order of their start; they are stopped in the reverse order, the router first.

    ``local_addresses`` are second ones of routers.
    """
    num_threads = config.num_threads or available_cpus()
    drain = ("--drain-timeout-s", f"{config.drain_timeout_s:g}")
    names = llm_names(config.num_llm_replicas)
    llm = ["--model", str(config.llm_folder), "--dtype", config.dtype]
    llm += ["--threads", str(max(1, num_threads // len(names)))]
    llm += config.llm_arguments
    ssm = ["--dtype", config.dtype, "--threads", str(num_threads), "--llm-model", str(config.llm_folder)]
    for ssm_name in config.ssms:
        ssm += ["--ssm", ssm_name]
    ssm += config.ssm_arguments
    router = []
    for name in names:
        router += ["--llm", addresses[name]]
    processes = [(name, "llm_service", llm) for name in names]
    if config.ssms:
        router += ["--ssm", addresses["ssm_service"]]
        processes.append(("ssm_service", "ssm_service", ssm))
    for name in router_names(config.num_routers):
        given = config.router_arguments if name == "router" else without_own_addresses(config.router_arguments)
        has_own = name in local_addresses and value_of_flag(_LOCAL, given) is None
        local = [_LOCAL, local_addresses[name]] if has_own else []
        processes.append((name, "router", [*router, *local, *given]))
    metrics = {name: ("--metrics-address", address) for name, address in config.metrics_addresses().items()}
    return tuple(
        ProcessSpec(name, module, ("--address", addresses[name], *drain, *metrics.get(name, ()), *arguments))
        for name, module, arguments in processes
    )


def value_of_flag(flag: str, arguments: Sequence[str]) -> str | None:
    """The last one, in one word with it or in two."""
    found = None
    for word, following in itertools.pairwise((*arguments, "")):
        if word.partition("=")[0] == flag:
            found = word.partition("=")[2] if "=" in word else following
    return found


def without_own_addresses(arguments: Sequence[str]) -> list[str]:
    """A router's arguments without the addresses that one process alone can have, and what goes with them; in one word or in two."""
    kept, is_value = [], False
    for word in arguments:
        is_flag = not is_value and word.partition("=")[0] in _OF_ONE_ROUTER
        if not (is_flag or is_value):
            kept.append(word)
        is_value = is_flag and "=" not in word
    return kept
