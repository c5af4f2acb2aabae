"""llama.cpp's server, as a contestant of ``benchmarks.serving``. Needs its binary (``llama-server``); itself the standard library only.

    python llama_server_peer.py BINARY MODEL.gguf THREADS none|ngrams|DRAFT.gguf

A line of JSON in (``prompt_ids``, ``max_tokens``), a line of JSON out (``num_tokens``). Greedy, as many prompts at once as there are; no
cache of prompts. The server's own defaults for how much it drafts.
"""

import concurrent.futures
import json
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

NUM_SLOTS, CONTEXT_LEN = 8, 2048
START_TIMEOUT_S = 300.0


def free_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


def post(url, content):
    request = urllib.request.Request(url, json.dumps(content).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request) as response:
        return json.load(response)


def wait_until_ready(url, server, log):
    started_s = time.monotonic()
    while time.monotonic() - started_s < START_TIMEOUT_S:
        if server.poll() is not None:
            log.seek(0)
            print(log.read().decode(errors="replace"))
            sys.exit(f"the server has ended with exit code {server.returncode}")
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    sys.exit(f"the server was not ready in {START_TIMEOUT_S:.0f} s")


def main():
    binary, model, num_threads, speculation = sys.argv[1:5]
    ways = {"none": [], "ngrams": ["--spec-type", "ngram-simple"]}
    drafting = ways.get(speculation, ["--model-draft", speculation, "--threads-draft", num_threads])
    port = free_port()
    log = tempfile.TemporaryFile()  # noqa: SIM115 - as long as the server
    server = subprocess.Popen(
        [
            binary, "--model", model, "--threads", num_threads, "--threads-batch", num_threads, "--port", str(port),
            "--ctx-size", str(NUM_SLOTS * CONTEXT_LEN), "--parallel", str(NUM_SLOTS), *drafting,
        ],
        stdin=subprocess.DEVNULL, stdout=log, stderr=log,
    )  # fmt: skip
    url = f"http://127.0.0.1:{port}"
    try:
        wait_until_ready(url, server, log)
        print(json.dumps({"ready": True}), flush=True)
        with concurrent.futures.ThreadPoolExecutor(NUM_SLOTS) as threads:
            for line in sys.stdin:
                asked = json.loads(line)
                bodies = [
                    {"prompt": ids, "n_predict": asked["max_tokens"], "temperature": 0.0, "cache_prompt": False}
                    for ids in asked["prompt_ids"]
                ]
                answers = threads.map(lambda body: post(f"{url}/completion", body), bodies)
                num_tokens = sum(answer["tokens_predicted"] for answer in answers)
                print(json.dumps({"num_tokens": num_tokens}), flush=True)
    finally:
        server.terminate()
        server.wait()


main()
