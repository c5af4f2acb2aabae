"""Child processes: started, restarted, stopped in order, never left behind. The children are ``tests.fake_router``."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from specgrove.client import Client
from specgrove.suite import processes
from specgrove.suite import supervisor as supervisor_module
from specgrove.suite.processes import NotReadyError, Suite, SuiteConfig, process_specs
from specgrove.suite.readiness import is_serving
from specgrove.suite.supervisor import ProcessFailedError, ProcessSpec, Supervisor
from tests.waiting import LIMIT_S, wait_until

MODULE = "tests.fake_router"


def is_alive(pid: int) -> bool:
    """False for a zombie too: nobody may have reaped it yet."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def spec(tmp_path: Path, name: str = "service", *flags: str) -> ProcessSpec:
    return ProcessSpec(name, MODULE, ("--address", f"unix:{tmp_path}/{name}.sock", *flags))


def test_output_is_forwarded_and_a_killed_process_comes_back(tmp_path: Path) -> None:
    lines: list[tuple[str, str]] = []
    supervisor = Supervisor([spec(tmp_path)], lambda name, line: lines.append((name, line)), drain_s=5)
    supervisor.start()
    try:
        address = f"unix:{tmp_path}/service.sock"
        wait_until(lambda: is_serving(address))
        supervisor.expect_up()
        pid = supervisor.pid("service")
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: supervisor.num_restarts("service") == 1)
        wait_until(lambda: is_serving(address))
        assert supervisor.pid("service") != pid
    finally:
        supervisor.stop()
    assert ("service", f"hello from {address}") in lines
    assert any("ended with signal SIGKILL; starting it again in 0.2 s" in line for _, line in lines)
    assert supervisor.pid("service") is None


def test_what_ends_again_and_again_is_started_ever_more_seldom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    clock = SimpleNamespace(now_s=1000.0, monotonic=lambda: clock.now_s)
    supervisor = Supervisor([spec(tmp_path)], lambda name, line: lines.append(line), drain_s=5)
    child = supervisor._children["service"]

    def spawn(_: object) -> None:
        child.process = SimpleNamespace(poll=lambda: 1, returncode=1)  # type: ignore[assignment]
        child.started_s, child.restart_at_s = clock.now_s, None

    monkeypatch.setattr(supervisor_module, "time", clock)
    monkeypatch.setattr(supervisor, "_spawn", spawn)
    supervisor.expect_up()
    spawn(child)
    for lived_s in (*[0.0] * 8, 31.0, 0.0):
        clock.now_s += lived_s
        supervisor._tend(child)
        assert child.restart_at_s is not None
        clock.now_s = child.restart_at_s
        supervisor._tend(child)
    waits = [line.rpartition("starting it again in ")[2] for line in lines]
    assert waits == [f"{wait_s} s" for wait_s in (0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10.0, 10.0, 0.2, 0.4)]
    assert supervisor.num_restarts("service") == 10


def test_a_process_that_ends_while_starting_says_why(tmp_path: Path) -> None:
    supervisor = Supervisor([spec(tmp_path), spec(tmp_path, "broken", "--fail")], lambda name, line: None, drain_s=5)
    supervisor.start()

    try:
        with pytest.raises(ProcessFailedError) as failure:
            wait_until(lambda: supervisor.check() is not None)  # type: ignore[func-returns-value]
    finally:
        supervisor.stop()
    assert str(failure.value) == "broken ended with exit code 3 while starting: error: the model folder is empty"
    assert supervisor.pid("service") is None


def test_a_process_that_ignores_sigterm_is_killed(tmp_path: Path) -> None:
    lines: list[str] = []
    is_up = threading.Event()

    def log_line(name: str, line: str) -> None:
        lines.append(line)
        is_up.set()

    supervisor = Supervisor([spec(tmp_path, "mule", "--stubborn")], log_line, drain_s=0.5)
    supervisor.start()
    assert is_up.wait(LIMIT_S)
    pid = supervisor.pid("mule")
    wait_until(lambda: "hello" in lines[0])
    supervisor.stop()
    assert pid is not None
    assert not is_alive(pid)


def test_no_child_outlives_a_killed_parent(tmp_path: Path) -> None:
    program = f"""
import sys, time
from specgrove.suite.supervisor import ProcessSpec, Supervisor
spec = ProcessSpec("service", {MODULE!r}, ("--address", "unix:{tmp_path}/service.sock"))
supervisor = Supervisor([spec], lambda name, line: print(supervisor.pid("service"), flush=True), drain_s=5)
supervisor.start()
time.sleep(3600)
"""
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    assert is_alive(pid)
    parent.kill()
    parent.wait()
    wait_until(lambda: not is_alive(pid))


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SuiteConfig:
    """A suite of three fakes."""

    def fake_specs(
        config: SuiteConfig, addresses: Mapping[str, str], local_addresses: Mapping[str, str]
    ) -> tuple[ProcessSpec, ...]:
        flags = {"llm_service": ("--fail",)} if config.llm_folder.name == "broken" else {}
        return tuple(
            ProcessSpec(name, MODULE, ("--address", address, *flags.get(name, ())))
            for name, address in addresses.items()
        )

    monkeypatch.setattr("specgrove.suite.processes.process_specs", fake_specs)
    return SuiteConfig(llm_folder=tmp_path)


def test_suite_serves_and_survives_the_death_of_its_router(config: SuiteConfig) -> None:
    seen: list[tuple[str, ...]] = []
    with Suite(config, progress=seen.append) as suite:
        assert seen[-1] == ()
        pids = {service: suite.pid(service) for service in ("router", "llm_service", "ssm_service")}
        with Client(suite.address) as client:
            assert client.complete("hi").text == "The quick brown fox"
        assert pids["router"] is not None
        os.kill(pids["router"], signal.SIGKILL)
        wait_until(lambda: suite.num_restarts("router") == 1)
        wait_until(lambda: is_serving(suite.address))
        socket_folder = Path(suite.address.removeprefix("unix:")).parent
    assert not socket_folder.exists()
    assert not any(is_alive(pid) for pid in pids.values() if pid is not None)


def test_suite_that_cannot_start_leaves_nothing_behind(tmp_path: Path, config: SuiteConfig) -> None:
    suite = Suite(SuiteConfig(llm_folder=tmp_path / "broken"))
    with pytest.raises(ProcessFailedError, match="llm_service ended with exit code 3"):
        suite.start()
    assert [suite.pid(service) for service in ("router", "llm_service", "ssm_service")] == [None] * 3


def test_services_that_are_not_ready_in_time_are_named_and_ended(
    config: SuiteConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "is_serving", lambda address: False)
    suite = Suite(replace(config, start_timeout_s=0.0))
    with pytest.raises(NotReadyError, match="llm_service, ssm_service, router not ready after 0 s"):
        suite.start()
    assert [suite.pid(service) for service in ("router", "llm_service", "ssm_service")] == [None] * 3


def test_services_are_started_with_what_the_suite_was_asked_for(tmp_path: Path) -> None:
    config = SuiteConfig(
        llm_folder=tmp_path,
        ssms=("lookup", "demo"),
        dtype="float32",
        num_threads=3,
        llm_arguments=("--kv-slots", "100"),
        router_arguments=("--max-requests", "7"),
        drain_timeout_s=5,
    )
    llm, ssm, router = process_specs(
        config, {"llm_service": "unix:/l", "ssm_service": "unix:/s", "router": "127.0.0.1:1"}
    )
    assert llm.arguments == (
        *(
            "--address",
            "unix:/l",
            "--drain-timeout-s",
            "5",
            "--model",
            str(tmp_path),
            "--dtype",
            "float32",
            "--threads",
            "3",
        ),
        *("--kv-slots", "100"),
    )
    assert ssm.arguments[-4:] == ("--ssm", "lookup", "--ssm", "demo")
    assert router.arguments[2:] == (
        *("--drain-timeout-s", "5", "--llm", "unix:/l", "--ssm", "unix:/s", "--max-requests", "7"),
    )


def test_replicas_share_the_threads_and_the_router_knows_them_all(tmp_path: Path) -> None:
    config = SuiteConfig(
        llm_folder=tmp_path, num_threads=4, num_llm_replicas=2, llm_arguments=("--tensor-parallel", "2")
    )
    addresses = {"llm_service": "unix:/l", "llm_service-2": "unix:/m", "ssm_service": "unix:/s", "router": "unix:/r"}
    first, second, _, router = process_specs(config, addresses)
    assert (first.module, second.module) == ("llm_service", "llm_service")
    assert second.arguments[:2] == ("--address", "unix:/m")
    assert second.arguments[-4:] == ("--threads", "2", "--tensor-parallel", "2")
    assert router.arguments[4:] == ("--llm", "unix:/l", "--llm", "unix:/m", "--ssm", "unix:/s")


def test_a_suite_with_tls_has_a_second_address_for_its_own_machine(tmp_path: Path) -> None:
    tls = ("--tls-certificate", "c.pem", "--tls-private-key", "k.pem")
    suite = Suite(SuiteConfig(llm_folder=tmp_path, address="127.0.0.1:1", router_arguments=tls))
    assert suite.address == "127.0.0.1:1"
    assert suite.local_address.startswith("unix:")
    plain = Suite(SuiteConfig(llm_folder=tmp_path, address="127.0.0.1:1"))
    assert plain.local_address == plain.address
    for made in (suite, plain):
        made.stop()


def test_further_routers_with_tls_have_one_too(tmp_path: Path) -> None:
    tls = ("--tls-certificate", "c.pem", "--tls-private-key", "k.pem")
    suite = Suite(SuiteConfig(llm_folder=tmp_path, num_routers=2, router_arguments=tls))
    assert len({*suite.router_addresses, *suite.local_addresses}) == 4
    assert suite.local_address == suite.local_addresses[0]
    suite.stop()
    plain = Suite(SuiteConfig(llm_folder=tmp_path, num_routers=2))
    assert plain.local_addresses == plain.router_addresses
    plain.stop()


def test_a_flag_with_its_value_in_one_word_is_the_same(tmp_path: Path) -> None:
    suite = Suite(SuiteConfig(llm_folder=tmp_path, address="127.0.0.1:1", router_arguments=("--api-key-file=keys",)))
    assert suite.local_address.startswith("unix:")
    suite.stop()


@pytest.mark.parametrize("arguments", [("--local-address", "unix:/here"), ("--local-address=unix:/here",)])
@pytest.mark.parametrize("keys", [(), ("--api-key-file", "keys")])
def test_a_local_address_that_is_given_is_the_first_router_s(
    tmp_path: Path, arguments: tuple[str, ...], keys: tuple[str, ...]
) -> None:
    """So what looks there whether it is ready, and clients of this machine, find it."""
    config = SuiteConfig(llm_folder=tmp_path, num_routers=2, router_arguments=(*arguments, *keys))
    suite = Suite(config)
    assert suite.local_address == "unix:/here"
    specs = process_specs(config, suite._addresses, suite._local_addresses)
    first, second = (" ".join(spec.arguments) for spec in specs if spec.module == "router")
    assert first.count("--local-address") == 1
    assert "unix:/here" not in second
    assert second.count("--local-address") == bool(keys)
    assert len(set(suite.local_addresses)) == 2
    suite.stop()


@pytest.mark.parametrize("joint", [" ", "="])
def test_further_routers_have_no_address_that_the_first_one_has(tmp_path: Path, joint: str) -> None:
    flags = ("--http-address", "127.0.0.1:8"), ("--http-allowed-origins", "*"), ("--health-address", "127.0.0.1:9")
    words = [word for flag in flags for word in joint.join(flag).split(" ")]
    arguments = ("--max-requests", "7", *words, "--log-requests")
    config = SuiteConfig(llm_folder=tmp_path, ssms=(), num_routers=2, router_arguments=arguments)
    addresses = {"llm_service": "unix:/l", "router": "unix:/r", "router-2": "unix:/q"}
    _, first, second = process_specs(config, addresses)
    assert first.arguments[-len(arguments) :] == arguments
    assert second.arguments[4:] == ("--llm", "unix:/l", "--max-requests", "7", "--log-requests")


def test_a_suite_gives_its_services_the_time_to_drain_that_it_tells_them(tmp_path: Path) -> None:
    config = SuiteConfig(llm_folder=tmp_path, drain_timeout_s=90.0)
    suite = Suite(config)
    assert suite._supervisor._drain_s > 90
    for process in process_specs(config, suite._addresses):
        place = process.arguments.index("--drain-timeout-s")
        assert process.arguments[place + 1] == "90"
    suite.stop()


def test_each_service_has_a_port_of_its_own_for_metrics(tmp_path: Path) -> None:
    config = SuiteConfig(llm_folder=tmp_path, num_llm_replicas=2, metrics_address="[::1]:9100")
    addresses = {"llm_service": "unix:/l", "llm_service-2": "unix:/m", "ssm_service": "unix:/s", "router": "unix:/r"}
    found = {}
    for process in process_specs(config, addresses):
        found[process.name] = process.arguments[process.arguments.index("--metrics-address") + 1]
    assert found == {
        "router": "[::1]:9100", "ssm_service": "[::1]:9101", "llm_service": "[::1]:9102", "llm_service-2": "[::1]:9103",
    }  # fmt: skip
    with pytest.raises(ValueError, match="give a port up to 65532"):
        SuiteConfig(llm_folder=tmp_path, num_llm_replicas=2, metrics_address="h:65533")
