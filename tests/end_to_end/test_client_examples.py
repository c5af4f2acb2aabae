"""The clients in other languages, built and run as ``examples/clients/README.md`` says, where their tools are."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from specgrove.client import Client
from specgrove.suite import supervised
from specgrove.suite.processes import Suite
from specgrove.suite.readiness import is_serving
from tests.addresses import free_address
from tests.forked_services import OwnForkers
from tests.waiting import LIMIT_S, wait_until

ROOT = Path(__file__).parents[2]
CLIENTS = ROOT / "examples" / "clients"
# Kept from run to run: compilers are slow.
BUILD = ROOT / "build" / "client-examples"
PROGRAMS = ("python/client.py", "node/client.js", "go/main.go", "java/Client.java", "cpp/client.cpp")


@pytest.fixture(scope="module")
def tcp_address(suite: Suite, forked_services: OwnForkers) -> Iterator[str]:
    """Of a second router over the suite's services: not every language's gRPC knows unix sockets."""
    address = free_address()
    services = ("--llm", suite.address_of("llm_service"), "--ssm", suite.address_of("ssm_service"))
    words = [sys.executable, "-m", supervised.__name__, str(os.getpid()), "router", "--address", address, *services]
    router = forked_services.Popen(words)
    with router.stdout:
        try:
            wait_until(lambda: is_serving(address))
            yield address
        finally:
            router.terminate()
            router.wait(LIMIT_S)


@pytest.fixture(scope="module")
def expected(tcp_address: str) -> str:
    with Client(tcp_address) as client:
        text = client.complete("The capital of France is", max_tokens=16).text
        answer = client.complete([("user", "Name three primes.")], temperature=0.7, seed=1, max_tokens=40).text
    return f"{text}\n{answer}\n"


def need(*tools: str) -> None:
    """Skips the test where one is missing: a command, or a file of a package."""
    missing = [tool for tool in tools if shutil.which(tool) is None and not Path(tool).exists()]
    if missing:
        pytest.skip(f"not on this machine: {', '.join(missing)}")


def run(*words: str | Path, **environment: str) -> str:
    ended = subprocess.run(
        words,
        cwd=CLIENTS,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=10 * LIMIT_S,
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def test_python(tcp_address: str, expected: str) -> None:
    assert run(sys.executable, "python/client.py", tcp_address, PYTHONPATH=str(ROOT)) == expected


def test_node(tcp_address: str, expected: str) -> None:
    need("node", "npm")
    folder = BUILD / "node"
    if not (folder / "node_modules" / "@grpc" / "proto-loader").exists():
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(CLIENTS / "node" / "package.json", folder)
        fetched = subprocess.run(
            ["npm", "install", "--silent"], cwd=folder, capture_output=True, text=True, check=False
        )
        if fetched.returncode != 0:
            pytest.skip(f"npm could not fetch the packages: {fetched.stderr.strip()[-200:]}")
    assert run("node", "node/client.js", tcp_address, NODE_PATH=str(folder / "node_modules")) == expected


@pytest.mark.slow
def test_cpp(tcp_address: str, expected: str) -> None:
    need("cmake", "pkg-config", "protoc", "grpc_cpp_plugin", "/usr/include/grpcpp/grpcpp.h")
    run("cmake", "-S", "cpp", "-B", BUILD / "cpp")
    run("cmake", "--build", BUILD / "cpp")
    assert run(BUILD / "cpp" / "client", tcp_address) == expected


@pytest.mark.slow
def test_go(tcp_address: str, expected: str) -> None:
    need("go", "protoc", "protoc-gen-go", "protoc-gen-go-grpc", "/usr/share/gocode/src/google.golang.org/grpc")
    run("go/build.sh", BUILD / "go")
    assert run(BUILD / "go" / "client", tcp_address) == expected


@pytest.mark.slow
def test_java(tcp_address: str, expected: str) -> None:
    jars = [
        f"/usr/share/java/{name}.jar"
        for name in ("grpc-netty", "protobuf", "perfmark-api", "netty-handler", "geronimo-annotation-1.3-spec")
    ]
    need("java", "javac", "protoc", "grpc_java_plugin", *jars)
    run("java/build.sh", BUILD / "java")
    assert run("java", "-cp", (BUILD / "java" / "classpath").read_text(), "Client", tcp_address) == expected


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_client_is_a_page(program: str) -> None:
    assert len((CLIENTS / program).read_text().splitlines()) < 60


def test_tritons_client(tcp_address: str) -> None:
    pytest.importorskip("tritonclient", reason="tritonclient is not installed")
    with Client(tcp_address) as client:
        text = client.complete("The capital of France is", max_tokens=16).text
    # A process of its own: its protocol's messages and the router's have the same names.
    assert run(sys.executable, "python/kserve.py", tcp_address) == f"{text}\n{text}\n"
