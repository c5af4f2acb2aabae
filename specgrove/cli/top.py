"""``specgrove top``: what a running suite does, again and again, in a terminal or as JSON. It asks by gRPC: no HTTP is needed."""

from __future__ import annotations

import argparse
import collections
import dataclasses
import time
from collections.abc import Iterator

import rich.console
import rich.live
import rich.table
import rich.text

from specgrove.cli.connecting import connected
from specgrove.cli.rendering import make_console, plain_table, print_json
from specgrove.cli.stats_rates import Rates, rates_of
from specgrove.client import Client
from specgrove.client.stats import RouterStats, ServiceStats
from specgrove.errors import UnavailableError

_NOTHING = "-"


@dataclasses.dataclass(frozen=True, slots=True)
class Look:
    """At a router: its statistics, and what happened since the look before."""

    stats: RouterStats
    rates: Rates


def run(arguments: argparse.Namespace) -> int:
    """Until Ctrl-C, or with ``--once`` after one look at an interval."""
    with connected(arguments) as client:
        looks = _looks(client, arguments.interval_s, is_once=arguments.once)
        if arguments.json:
            for look in looks:
                print_json(dataclasses.asdict(look))
            return 0
        console = make_console()
        if arguments.once or not console.is_terminal:
            for look in looks:
                console.print(frame(look, arguments.address))
            return 0
        _watch(client, arguments, console)
    return 0


def _looks(client: Client, interval_s: float, *, is_once: bool) -> Iterator[Look]:
    """One each interval; the first after one."""
    before, looked_s = client.stats(), time.monotonic()
    while True:
        time.sleep(interval_s)
        now, now_s = client.stats(), time.monotonic()
        yield Look(now, rates_of(before, now, now_s - looked_s))
        if is_once:
            return
        before, looked_s = now, now_s


def _watch(client: Client, arguments: argparse.Namespace, console: rich.console.Console) -> None:
    """In place. The first look is since the router's start; one that is away is waited for."""
    before, looked_s = client.stats(), time.monotonic()
    shown = frame(Look(before, rates_of(None, before, 0.0)), arguments.address)
    with rich.live.Live(shown, console=console, screen=True, auto_refresh=False) as live:
        live.refresh()
        while True:
            time.sleep(arguments.interval_s)
            try:
                now, now_s = client.stats(), time.monotonic()
            except UnavailableError as error:
                note = rich.text.Text(f"no answer: {error}", style="bold red")
                live.update(rich.console.Group(note, shown), refresh=True)
                continue
            shown = frame(Look(now, rates_of(before, now, now_s - looked_s)), arguments.address)
            live.update(shown, refresh=True)
            before, looked_s = now, now_s


def frame(look: Look, address: str) -> rich.console.Group:
    """All that is shown at once."""
    stats = look.stats
    title = f"{stats.model or 'no model yet'}, SpecGrove {stats.version} at {address}, up {_duration(stats.uptime_s)}"
    parts: list[rich.console.RenderableType] = [rich.text.Text(title, style="bold"), "", _numbers(look), ""]
    if look.rates.ssms:
        parts += [_ssms(look), ""]
    return rich.console.Group(*parts, _services(look))


def _numbers(look: Look) -> rich.text.Text:
    """Lines of 80 characters at most, and no table: that would fill them up with blanks."""
    stats, rates = look.stats, look.rates
    rows = {
        "requests": f"{stats.num_running_requests} running, {stats.num_waiting_requests} waiting; "
        f"{rates.finished_per_s:.1f} end per second, {rates.failed_per_s:.1f} fail",
        "tokens per second": f"{rates.output_tokens_per_s:.1f} of outputs, {rates.prompt_tokens_per_s:.1f} of prompts",
        "times of tokens": f"first {_ms(rates.first_token_ms)}, between two {_ms(rates.between_tokens_ms)}",
        "times of requests": f"{_ms(rates.duration_ms)}, in the queue {_ms(rates.queue_ms)}",
        "speculation": f"{_number(rates.tokens_per_step, 2)} tokens per step, {_number(rates.speedup, 2)} times as fast",
        "trees": f"in {_percent(rates.drafted_share)} of steps, {_number(rates.acceptance_len, 2)} tokens each",
        "accepted by depth": " ".join(f"{share:.0%}" for share in rates.acceptance_by_position) or _NOTHING,
    }
    width = max(map(len, rows))
    lines = (rich.text.Text.assemble((f"{name:<{width}}  ", "dim"), text) for name, text in rows.items())
    return rich.text.Text("\n").join(lines)


def _ssms(look: Look) -> rich.table.Table:
    columns = ("SSM", "state", "trees per second", "nodes per tree", "accepted per tree")
    table = plain_table(columns, texts=("SSM", "state"))
    for ssm in look.rates.ssms:
        numbers = (ssm.nodes_per_draft, ssm.accepted_tokens_per_draft)
        state = "paused" if ssm.is_paused else "there"
        table.add_row(ssm.name, state, f"{ssm.drafts_per_s:.1f}", _number(numbers[0], 1), _number(numbers[1], 2))
    return table


def _services(look: Look) -> rich.table.Table:
    columns = ("service", "state", "sessions", "KV slots", "pass/s", "ms/pass", "rows", "lost")
    table = plain_table(columns, texts=("service", "state"))
    nums = collections.Counter(service.service for service in look.stats.services)
    for service, rates in zip(look.stats.services, look.rates.services, strict=True):
        load = service.load
        used = 0 if load is None else load.num_slots - load.num_free_slots
        waiting = f", {load.num_waiting_sessions} wait" if load is not None and load.num_waiting_sessions else ""
        table.add_row(
            _name(service, nums[service.service]),
            _state(service),
            _NOTHING if load is None else f"{load.num_sessions - load.num_waiting_sessions}{waiting}",
            _NOTHING if load is None else f"{used}/{load.num_slots}",
            _number(rates.passes_per_s, 1),
            _number(rates.mean_pass_ms, 1),
            _number(rates.rows_per_pass, 1),
            str(service.num_losses),
        )
    return table


def _name(service: ServiceStats, num_replicas: int) -> str:
    """With its address where that tells it from others. The table breaks it between the two where it has to."""
    return service.service if num_replicas == 1 else f"{service.service} {service.address}"


def _state(service: ServiceStats) -> str:
    if not service.is_connected:
        return "away"
    if service.load is None:
        return "no answer"
    return "draining" if service.is_draining else "there"


def _number(value: float | None, num_digits: int) -> str:
    return _NOTHING if value is None else f"{value:.{num_digits}f}"


def _percent(value: float | None) -> str:
    return _NOTHING if value is None else f"{value:.0%}"


def _ms(value: float | None) -> str:
    if value is None:
        return _NOTHING
    return f"{value / 1e3:.1f} s" if value >= 10_000 else f"{value:.0f} ms" if value >= 10 else f"{value:.1f} ms"


def _duration(seconds: float) -> str:
    minutes, hours, days = int(seconds // 60), int(seconds // 3600), int(seconds // 86400)
    if days:
        return f"{days} d {hours % 24} h"
    if hours:
        return f"{hours} h {minutes % 60} min"
    return f"{minutes} min" if minutes else f"{seconds:.0f} s"
