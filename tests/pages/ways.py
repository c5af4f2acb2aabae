"""How each command of the pages is tried: against the suite that runs, as a server of its own, or not at all, and why.

The tables here are the one place to say so. The tests of this folder read them.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping

from tests.documented import Block, Command, commands

# Patterns of commands that no test can run here, and why.
NOT_RUN = {
    r"^make ": "installs, builds and tests for minutes; CI runs setup, check and test",
    r"\bpip (install|uninstall|wheel)\b": "changes what is installed, or builds all kernels; tests/test_packages.py looks at the package",
    r"^rm ": "removes what the user has",
    r"-m pytest ": "is a test itself",
    r"-m tests\.": "runs containers, as root",
    r"-m benchmarks\.": "measures for hours, with models of the hub",
    r"models download ": "needs the hub",
    r"^(smg|lm_eval|guidellm|aiperf) ": "a program of others that is not installed here; the page says with what it was tried",
    r"completion (zsh|fish)": "the shell is not installed here; tests/cli/test_usage.py holds the scripts",
    r" \.\.\.$": "the page leaves out what is said above; tests/serving and tests/router hold the options",
    r"dns:\w": "names of a cluster's DNS; tests/router resolve such names",
    r"HOST:": "reaches a host of the reader's, by a certificate that others trust; tests of the command line hold TLS and keys",
    r"^(kubectl|kustomize|helm|kind) ": "needs a cluster; tests/k8s check the files",
    r"^(sudo |podman |docker |buildah )": "needs root, or builds images; tests/k8s do it where that can be done",
}
SNIPPETS_NOT_RUN = {
    "docs/architecture.md": "tells the loop in short; no program",
}
# What is typed in place of what the page leaves to the reader.
_STANDS_FOR = {
    "serve ... --tls-client-ca": "serve --tls-certificate server.pem --tls-private-key server.key --tls-client-ca",
    "--api-key-file keys ...": "--api-key-file keys",
}
# So that commands use the suite that runs already.
_AT_THE_SUITE = {
    r"^specgrove (generate|chat|bench|eval) (?!.*--address)": "--address 127.0.0.1:50051",
    r"^specgrove batch ": "--address 127.0.0.1:8000",
}
# So that they end soon. The last of two equal options counts.
_SOON = {
    r"^specgrove (generate|chat) ": "--max-tokens 24",
    r"^specgrove (bench|eval) ": "--max-tokens 2",
    r"^specgrove top": "--once",
    r"^specgrove ssm train ": "--num-tokens 600 --passes 0.5",
    r"^specgrove ssm ": "--work-dir recordings --workers 1 --answer-len 8",
    r"^curl ": "--silent",
}
# Servers, and what they print when they are ready.
READY = {"specgrove serve": "Ctrl-C stops", "specgrove chat": "Ctrl-C ends it", "prometheus": "Server is ready"}
# Programs of others that a machine may lack, each in the Debian package of its name.
OTHERS = ("curl", "openssl", "prometheus")
# Before a snippet that goes on with what the page has said elsewhere, and behind one that only defines something.
_OPENAI = "import httpx, openai, pydantic, time\nclient = openai.OpenAI(base_url='http://127.0.0.1:8000/v1', api_key='none')\n"
_GRPC = "from specgrove.client import Client\nclient = Client('127.0.0.1:50051')\n"
_BEFORE = {"docs/http.md": _OPENAI, "docs/clients.md": _GRPC}
_BEHIND = {
    "def answer_in_pieces": "asked = [{'role': 'user', 'content': 'Hi'}]\n"
    "print(*answer_in_pieces(client, model='smollm2-135m-instruct', messages=asked, max_completion_tokens=8))\n",
}


class Way(enum.Enum):
    """How a command is tried."""

    NOT_RUN = enum.auto()
    ON_THE_SUITE = enum.auto()
    ALONE = enum.auto()
    """Where no suite runs."""
    SERVER = enum.auto()
    """Runs until a signal."""
    IN_A_SUITE_OF_ITS_OWN = enum.auto()
    """Reaches no suite that runs."""
    BY_HAND = enum.auto()
    """One of three services, which are of use together."""
    ONE_AFTER_ANOTHER = enum.auto()
    """Goes on with what the command before has written."""


def shell_words(command: Command) -> str:
    """As the reader would type them, from any folder."""
    words = command.words.replace(".venv/bin/", "")
    for written, meant in _STANDS_FOR.items():
        words = words.replace(written, meant)
    return words


def way_of(command: Command) -> Way:
    """By the tables of this module."""
    words = shell_words(command)
    if any(re.search(pattern, words) for pattern in NOT_RUN):
        return Way.NOT_RUN
    if words.startswith("python -m "):
        return Way.BY_HAND
    if re.search(r"^prometheus |^specgrove chat --web", words):
        return Way.SERVER
    if words.startswith("specgrove serve") and "--print-config" not in words:
        return Way.SERVER
    if re.search(r"^specgrove (spec-infer|incr-decoding) ", words):
        return Way.IN_A_SUITE_OF_ITS_OWN
    if words.startswith("specgrove ssm "):
        return Way.ONE_AFTER_ANOTHER
    return Way.ALONE if words == "specgrove doctor" else Way.ON_THE_SUITE


def of_way(*ways: Way) -> list[Command]:
    """Each command once, at its first place."""
    first: dict[str, Command] = {}
    for command in commands():
        # Of two with the same words the one whose page shows an output.
        known = first.get(shell_words(command))
        if way_of(command) in ways and (known is None or not known.output):
            first[shell_words(command)] = command
    return list(first.values())


def _with_more(words: str, table: Mapping[str, str]) -> str:
    plain, redirection, file = words.partition(" < ")
    more = [options for pattern, options in table.items() if re.search(pattern, plain + " ")]
    return " ".join([plain, *more]) + redirection + file


def at_the_suite(words: str) -> str:
    """Such that the suite that runs answers."""
    return _with_more(words, _AT_THE_SUITE)


def soon(words: str) -> str:
    """Such that it ends soon."""
    return _with_more(words, _SOON)


def on_the_suite(words: str) -> str:
    """Such that the suite that runs answers, and soon."""
    return soon(at_the_suite(words))


def program_of(snippet: Block) -> str:
    """A whole program of a snippet."""
    behind = "".join(more for first, more in _BEHIND.items() if snippet.text.startswith(first))
    return _BEFORE.get(snippet.page, "") + snippet.text + behind


def starts_services(snippet: Block) -> bool:
    """The snippet is of the Python API, which needs no suite that runs."""
    return "specgrove.serve" in snippet.text


# Lines whose words depend on what was measured or on how long the suite has been busy.
_MEASURED = re.compile(
    r"^(No clear gain|Do without|Take |\S+x the speed|\d\S*x\. Measure|smollm2-135m-instruct, SpecGrove|no GPU is here"
    r"|trees  |accepted by depth|SSM  |demo  +\d|lookup  +\d|\d\d:\d\d:\d\d|step, stop)"
)
_STATES = ("ok", "warning", "error")


def shape(text: str) -> list[str]:
    """What stays of an output from machine to machine: of a table's row its name, of another line all but its figures."""
    found = []
    for line in text.splitlines():
        words = line.strip()
        columns = re.split(r"\s{2,}", words)
        if set(words) <= set("─ ") or _MEASURED.match(words) or columns[0].isdigit():
            continue
        if len(columns) > 1:
            found.append(columns[1] if columns[0] in _STATES else columns[0])
        else:
            found.append(re.sub(r"\d+(\.\d+)?", "0", words))
    return found
