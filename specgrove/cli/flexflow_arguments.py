"""The grammar of ``specgrove spec-infer`` and ``incr-decoding``: the flags of FlexFlow Serve's programs of these names.

They are written with one dash or two. Flags that mean nothing here are taken, so that scripts run as they are, and the command says so.
https://github.com/flexflow/flexflow-serve (``inference/spec_infer``, ``inference/incr_decoding``, ``FFConfig``) has them.
"""

from __future__ import annotations

import argparse
from typing import Any

from specgrove.settings import at_least, path, typed

INCREMENTAL = "incr-decoding"
# What they set there has no counterpart: Legion's processors and memories, and how its graphs are made and watched.
_IGNORED_VALUES = (
    "ll:zsize", "ll:csize", "ll:util", "ll:ocpu", "ll:othr", "ll:bgwork", "level", "logfile", "log-file", "nodes",
    "profiling-folder", "partition-name", "ssm-tp-degree",
)  # fmt: skip
_IGNORED_SWITCHES = (
    "fusion", "profiling", "benchmarking", "inference-debugging", "overlap", "only-data-parallel", "warmup",
    "log-instance-creation", "enable-parameter-parallel", "enable-attribute-parallel", "disable-control-replication",
    "memory-search", "allow-tensor-op-math-conversion",
)  # fmt: skip
_EPILOG = f"Taken and ignored: {', '.join(f'-{name}' for name in (*_IGNORED_VALUES, *_IGNORED_SWITCHES))}."
# What is asked for is not done, so it is not passed over.
REFUSED = {
    "qps": "requests all come at once here; `specgrove batch` and the clients send them when they like",
    "request-per-second": "requests all come at once here; `specgrove batch` and the clients send them when they like",
    "trace": "give the prompts as a JSON list of texts: -prompt FILE",
    "peft-model": "adapters are not supported",
    "finetuning-dataset": "models are not trained here; `python -m specgrove.training` makes SSMs",
}


def add_spec_infer(commands: argparse._SubParsersAction[Any]) -> None:
    """Both commands."""
    command = commands.add_parser(
        "spec-infer",
        usage="specgrove spec-infer -llm-model MODEL -ssm-model MODEL -prompt FILE.json [OPTION ...]",
        help="FlexFlow Serve's spec_infer: a file of prompts, answered with speculation",
        description="Answers a JSON list of prompts with speculation, with the flags of FlexFlow Serve's program.",
        epilog=_EPILOG,
    )
    _add_flags(command)
    incremental = commands.add_parser(
        INCREMENTAL,
        usage=f"specgrove {INCREMENTAL} -llm-model MODEL -prompt FILE.json [OPTION ...]",
        help="FlexFlow Serve's incr_decoding: the same without speculation",
        description="Answers a JSON list of prompts without speculation, with the flags of FlexFlow Serve's program.",
        epilog=_EPILOG,
    )
    _add_flags(incremental)


def _add_flags(command: argparse.ArgumentParser) -> None:
    models = _Group(command, "models")
    models.value("llm-model", str, "MODEL", "the large model: a folder, a .gguf file or a hub id", required=True)
    models.value(
        "ssm-model", str, "MODEL", "a small speculative model, or lookup; repeatable", action="append", default=[]
    )
    models.value("cache-folder", path, "DIR", "where converted models are kept")
    models.switch("use-full-precision", "compute in float32 (default: bfloat16)")
    models.switch("use-bf16-precision", "compute in bfloat16", "use-bf16")
    models.switch("4bit-quantization", "weights of 4 bits", dest="int4")
    models.switch("8bit-quantization", "weights of 8 bits", dest="int8")
    models.value("expansion-degree", _expansion_degree, "N", "SSMs draft trees of 1, 1 and N branches; -1: a sequence")
    files = _Group(command, "prompts and outputs")
    files.value("prompt", path, "FILE", "a JSON list of texts", required=True)
    files.value("output-file", path, "FILE", "a JSON list with text, tokens and latency of each prompt")
    files.value("max-length", at_least(1), "N", "tokens of prompt and output together at most")
    files.value("max-output-length", at_least(1), "N", "tokens of the output at most (default: 128)")
    files.switch("do-sample", "sample, instead of taking the most probable token")
    files.value("temperature", float, "T", "with -do-sample")
    files.value("topp", float, "P", "with -do-sample")
    files.value("topk", at_least(0), "K", "with -do-sample")
    files.value("seed", at_least(0), "N", "with -do-sample")
    files.switch("ignore-eos", "go on after an end-of-sequence token")
    machine = _Group(command, "machine")
    machine.value("ll:gpu", at_least(0), "N", "GPUs; 0: the CPU (default: GPUs if there are)")
    machine.value("ll:cpu", at_least(1), "N", "threads")
    machine.value("ll:fsize", at_least(1), "MB", "memory of each GPU that may be taken")
    machine.value("tensor-parallelism-degree", at_least(1), "N", "processes that share every layer")
    machine.value("pipeline-parallelism-degree", at_least(1), "N", "processes that the layers are divided over")
    machine.value("data-parallelism-degree", at_least(1), "N", "LLM services that share the requests")
    machine.switch("offload", "weights that don't fit are fetched a layer ahead")
    machine.value("offload-reserve-space-size", at_least(1), "MB", "with -offload: memory left to others")
    machine.value("max-requests-per-batch", at_least(1), "N", "requests served at once")
    machine.value("max-tokens-per-batch", at_least(1), "N", "tokens of prompts in one pass")
    machine.value("max-sequence-length", at_least(2), "N", "longest prompt and output together")
    machine.value("num-kv-cache-slots", at_least(1), "N", "tokens in the KV cache, of all requests together")
    shown = command.add_mutually_exclusive_group()
    shown.add_argument("--verbose", action="store_true", help="show the log of the services")
    shown.add_argument("--quiet", action="store_true", help="show results and errors only")
    others = _Group(command, "taken and ignored")
    for name in _IGNORED_VALUES:
        others.value(name, str, "X", None, action=_Ignored)
    for name in _IGNORED_SWITCHES:
        others.value(name, None, None, None, action=_Ignored, nargs=0)
    for name in REFUSED:
        others.value(name, str, "X", None, action=_Refused)
    command.set_defaults(ignored=[])


class _Group:
    """Flags with one dash or two."""

    def __init__(self, command: argparse.ArgumentParser, title: str) -> None:
        self._group = command.add_argument_group(title)

    def value(self, name: str, read: Any, metavar: str | None, help: str | None, **options: Any) -> None:
        if read is not None:
            options["type"] = read if read in (str, float) else typed(read)
        self._group.add_argument(
            f"-{name}", f"--{name}", metavar=metavar, help=help or argparse.SUPPRESS, dest=_dest(name), **options
        )

    def switch(self, name: str, help: str, *others: str, dest: str | None = None) -> None:
        names = [f"{dashes}{one}" for one in (name, *others) for dashes in ("-", "--")]
        self._group.add_argument(*names, action="store_true", help=help, dest=dest or _dest(name))


def _dest(name: str) -> str:
    return name.replace("-", "_").replace(":", "_")


class _Ignored(argparse.Action):
    """Keeps its name, to be told."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option: str | None = None
    ) -> None:
        namespace.ignored = [*namespace.ignored, option]


class _Refused(argparse.Action):
    """Says why."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option: str | None = None
    ) -> None:
        parser.error(f"{option}: {REFUSED[(option or '').lstrip('-')]}")


def _expansion_degree(text: str) -> int:
    number: int = -1 if text == "-1" else at_least(1)(text)
    return number
