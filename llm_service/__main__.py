"""``python -m llm_service``: reads the command line, finds the model, and says what is wrong with them before torch is imported.

With more than one rank this process is the launcher (``torchrun``), which starts this module once a rank.
"""

from __future__ import annotations

import specgrove.serving.grpc_environment  # noqa: F401  before anything imports grpc

# isort: split
import logging
import os
import sys

from llm_service.arguments import parse_arguments
from llm_service.config import SERVICE_NAME, LlmServiceConfig, is_rank
from specgrove.machine.folders import provide_home
from specgrove.models.folders.hub import resolve_model
from specgrove.models.planning.fitting import check_before_start
from specgrove.runtime.step_loop import HungEngineError
from specgrove.serving.health import Health
from specgrove.serving.health_server import health_server
from specgrove.serving.listening import check_can_listen
from specgrove.serving.starting import ended_by_signals
from specgrove.telemetry.logs import set_up_logging

logger = logging.getLogger("llm_service")


def check_model(config: LlmServiceConfig) -> None:
    """Before weights are read, and before ranks are started. Raises ``ValueError`` and ``OSError``."""
    folder = resolve_model(config.model, cache_dir=config.cache_dir, progress=logger.info)
    check_before_start(config.demand, folder, config.cache_dir)


def main() -> int:
    """Exit code 0 after a signal, 1 when the service can't start."""
    config = parse_arguments()
    is_one_of_several = is_rank(os.environ)
    set_up_logging(
        f"llm_service[{os.environ['RANK']}]" if is_one_of_several else "llm_service",
        config.log_level,
        config.log_format,
    )
    if is_one_of_several:
        from llm_service.service import run_rank  # brings torch

        run_rank(config)
    try:
        provide_home()
        for address in config.addresses:
            check_can_listen(address)  # loading may take minutes
        health = Health([SERVICE_NAME])
        if config.demand.layout.num_ranks > 1:
            # Models are fetched here. From then on the first rank answers.
            with ended_by_signals(), health_server(config.health_address, health):
                check_model(config)
            from llm_service.ranks import launch  # brings torch

            return launch(config.demand.layout, sys.argv[1:], config.drain_timeout_s)
        with ended_by_signals(), health_server(config.health_address, health):
            check_model(config)
            from llm_service.service import run_alone  # brings torch

            run_alone(config, health)
    except HungEngineError as error:
        logger.error("%s; ending, to be started again", error)
        sys.stderr.flush()
        os._exit(1)  # whatever waits for its thread would wait for ever
    except (ValueError, OSError, RuntimeError) as error:
        logger.error("%s", error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
