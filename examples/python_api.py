"""Starts the suite with the demo models, streams one answer through the Python client, and shows who drafted each token."""

from pathlib import Path

from specgrove.client import Client
from specgrove.models.hub import DEMO_LLM, resolve_model
from specgrove.suite import Suite, SuiteConfig


def main() -> None:
    folder = resolve_model(DEMO_LLM, cache_dir=Path.home() / ".cache" / "specgrove", progress=print)
    with Suite(SuiteConfig(llm_folder=folder)) as suite, Client(suite.address) as client:
        print(client.model_info())
        for chunk in client.generate([("user", "Name three primes.")], max_tokens=40):
            for token in chunk.tokens:
                print(f"{token.text!r:16} {', '.join(token.drafted_by) or 'verifier'}")
            if chunk.usage is not None:
                print(f"{chunk.usage.mean_acceptance_len:.2f} tokens per verifier step")


if __name__ == "__main__":
    main()
