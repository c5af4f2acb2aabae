"""Fixtures shared by all tests: tiny random Llama folders, made in the test session, and the demo model."""

from __future__ import annotations

import ast
import contextlib
import functools
import gc
import importlib
import json
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import torch
import tqdm

from specgrove.kernels import threads
from specgrove.models.folders.hub import DEMO_LLM, resolve_model
from specgrove.serving.event_loop import new_event_loop
from specgrove.suite import supervisor
from tests.forked_services import OwnForkers
from tests.router.toy_language import EOS, VOCAB_SIZE, toy_tokenizer_json

TINY_VOCAB_SIZE = 97
ROOT = Path(__file__).parent.parent
END_TO_END = "tests/end_to_end/"
# The fixtures of tests/end_to_end/conftest.py that take each of its suites.
SHARED_SUITES = {"suite": {"suite", "client"}, "tiny_suite": {"tiny_suite"}}
# What waits for other processes leaves a processor idle, what computes does not: they run side by side, so many files of the second
# kind for one of the first. What one of two processes does alone at the end costs the other's time: all of this comes first.
WAITING = (END_TO_END, "tests/test_packages.py")
COMPUTING = ("tests/kernels/", "tests/models/", "tests/program/", "tests/runtime/", "tests/llm/", "tests/router/test_")
NUM_COMPUTING = 4
SERVERS_OF_PAGES = "tests/pages/test_servers.py"

# By default an example that takes 0.2 s fails, on a busy machine that is.
hypothesis.settings.register_profile("at any speed", deadline=None)
hypothesis.settings.load_profile("at any speed")

# Its thread and a progress bar that the garbage collector ends wait for each other now and then (transformers leaves such bars).
tqdm.tqdm.monitor_interval = 0


def pytest_configure(config: pytest.Config) -> None:
    """Side by side with others a process has one core. Programs take Ctrl-C, also where the tests were started to ignore it."""
    if hasattr(config, "workerinput"):
        gc.disable()  # what collection makes stays: see pytest_collection_finish
        torch.set_num_threads(1)
        import_share(config.args, config.workerinput)
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as behind `&` in a script
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(optionalhook=True)  # unknown to older versions of pytest-asyncio
def pytest_asyncio_loop_factories(config: pytest.Config, item: pytest.Item) -> dict[str, Callable[[], Any]]:
    """Tests run on the loop that services run on."""
    return {"as services": new_event_loop}


def import_share(arguments: list[str], worker: dict[str, Any]) -> None:
    """Imports test modules that no other process imports now: in a fresh clone each is rewritten once, and not by all processes."""
    paths = map(Path, arguments)
    files = [file for path in paths for file in ([path] if path.is_file() else sorted(path.rglob("test_*.py")))]
    for file in files[int(worker["workerid"].removeprefix("gw")) :: worker["workercount"]]:
        with contextlib.suppress(Exception, pytest.skip.Exception):  # collection imports it again, and tells
            importlib.import_module(".".join(file.resolve().relative_to(ROOT).with_suffix("").parts))


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Without a GPU its tests are left out. Processes side by side mix files that wait and files that compute."""
    if not torch.cuda.is_available():
        for_gpus = [item for item in items if item.get_closest_marker("gpu") is not None]
        config.hook.pytest_deselected(items=for_gpus)
        items[:] = [item for item in items if item.get_closest_marker("gpu") is None]
    if hasattr(config, "workerinput"):
        items[:] = mixed(items)


def pytest_collection_finish() -> None:
    """Modules and tests stay as they are: the garbage collector need not look through half a million objects again and again."""
    gc.enable()
    gc.collect()
    gc.freeze()


def mixed(items: list[pytest.Item]) -> list[pytest.Item]:
    """Tests of a file stay together, and in their order."""
    by_file: dict[str, list[pytest.Item]] = {}
    for item in items:
        by_file.setdefault(item.nodeid.partition("::")[0], []).append(item)
    waiting = [file for file in by_file if file.startswith(WAITING)]
    waiting.sort(
        key=lambda file: shared_suite(ROOT / file) != "suite"
    )  # these are the longest: one process runs them all
    computing = [file for file in by_file if file.startswith(COMPUTING)]
    order: list[str] = []
    for number, file in enumerate(waiting):
        order += [file, *computing[number * NUM_COMPUTING : (number + 1) * NUM_COMPUTING]]
    order += computing[len(waiting) * NUM_COMPUTING :]
    order += [file for file in by_file if file not in order]
    return [item for file in order for item in by_file[file]]


@pytest.hookimpl(optionalhook=True)  # of pytest-xdist, which GPU machines may lack
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> object:
    """A file's tests run in one process, and so do all files that share a real suite. Those that share nothing go anywhere."""
    from xdist.scheduler import LoadFileScheduling

    class BySharedFixtures(LoadFileScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            if nodeid.startswith(SERVERS_OF_PAGES):
                return nodeid
            file = str(super()._split_scope(nodeid))
            return (shared_suite(ROOT / file) if file.startswith(END_TO_END) else None) or file

    return BySharedFixtures(config, log)


@functools.cache
def shared_suite(file: Path) -> str | None:
    """The fixture of the suite that a file's tests share with other files; None where they start their own, or none."""
    nodes = ast.walk(ast.parse(file.read_text(encoding="utf-8")))
    functions = [node for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    arguments = {
        argument.arg
        for function in functions
        if function.name.startswith("test_") or function.decorator_list  # a fixture
        for argument in function.args.args
    }
    return next((suite for suite, names in SHARED_SUITES.items() if arguments & names), None)


def pytest_addoption(parser: pytest.Parser) -> None:
    """``--isa avx2``: as on a processor without AVX-512. Kernels' own tests try every path in any case."""
    parser.addoption(
        "--isa", choices=("amx", "amx_twin", "avx512", "avx2", "plain"), help="instructions that the CPU kernels use"
    )


@pytest.fixture(scope="session", autouse=True)
def chosen_isa(request: pytest.FixtureRequest) -> None:
    """The whole session runs on one path where that is asked for."""
    isa = request.config.getoption("--isa")
    if isa is not None:
        threads.set_isa(isa)


@pytest.fixture(scope="session", autouse=True)
def forked_services() -> Iterator[OwnForkers]:
    """Services start in a tenth of the time."""
    with pytest.MonkeyPatch.context() as patch, contextlib.closing(OwnForkers()) as forking:
        patch.setattr(supervisor, "subprocess", forking)
        yield forking


@pytest.fixture(scope="session")
def python(forked_services: OwnForkers) -> list[str]:
    """Before a module's name or a file: as ``python -m`` or ``python`` runs it, and services of suites that it starts are forked."""
    forked_services.expect_all()
    return [sys.executable, "-m", "tests.with_forked_services", str(forked_services.folder)]


@pytest.fixture
def kernel_settings() -> Iterator[None]:
    """Threads and instructions of the kernels are after the test what they were before, pass or fail."""
    isa, num_threads, num_torch_threads = threads.get_isa(), threads.get_num_threads(), torch.get_num_threads()
    yield
    threads.set_isa(isa)
    threads.set_num_threads(num_threads)
    torch.set_num_threads(num_torch_threads)


def save_tiny_llama(
    folder: Path,
    *,
    seed: int,
    vocab_size: int = TINY_VOCAB_SIZE,
    dtype: torch.dtype = torch.float32,
    **overrides: object,
) -> Path:
    """A random Llama that is small but has grouped heads and several layers. Its logits are far from flat."""
    from transformers import LlamaConfig, LlamaForCausalLM

    settings: dict[str, object] = {
        "vocab_size": vocab_size,
        "hidden_size": 48,
        "intermediate_size": 80,
        "num_hidden_layers": 3,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 256,
        "initializer_range": 0.2,
        "eos_token_id": 2,
        "tie_word_embeddings": False,
    }
    torch.manual_seed(seed)
    model = LlamaForCausalLM(LlamaConfig(**(settings | overrides)))
    model.to(dtype).save_pretrained(folder)
    return folder


def save_byte_llama(folder: Path) -> Path:
    """A random Llama of bytes, with a tokenizer."""
    save_tiny_llama(
        folder, seed=0, vocab_size=VOCAB_SIZE, eos_token_id=EOS, hidden_size=64,
        intermediate_size=128, num_attention_heads=4, head_dim=16, max_position_embeddings=1024,
    )  # fmt: skip
    (folder / "tokenizer.json").write_bytes(toy_tokenizer_json())
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": EOS, "temperature": 0.5, "top_k": 20}))
    return folder


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The verifier's tiny model."""
    return save_tiny_llama(tmp_path_factory.mktemp("tiny_llama"), seed=0)


@pytest.fixture(scope="session")
def other_tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A different tiny model with the same vocabulary: a drafter that is often wrong."""
    return save_tiny_llama(tmp_path_factory.mktemp("other_tiny_llama"), seed=1, num_hidden_layers=1)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that the real services load in no time."""
    return save_byte_llama(tmp_path_factory.mktemp("tiny_model"))


@pytest.fixture(scope="session")
def demo_llm() -> Path:
    """The demo LLM's folder, made on first use."""
    return resolve_model(DEMO_LLM, cache_dir=Path.home() / ".cache" / "specgrove", progress=print)
