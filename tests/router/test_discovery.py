"""Which replicas there are, by configuration and by what DNS says: the plan, and a set that follows it."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.discovery import Plan, ReplicaSet, Resolving, is_told, plan
from router.names import look_up
from specgrove.addresses import ReplicaAddress
from tests.waiting import LIMIT_S

IPS = tuple(f"10.0.0.{number}" for number in range(1, 6))


def at(ip_address: str, name: str | None = "llm") -> ReplicaAddress:
    return ReplicaAddress(f"{ip_address}:5", name)


def test_who_is_new_comes_once_and_who_is_of_no_use_goes() -> None:
    found = [at("10.0.0.1"), at("10.0.0.2"), at("10.0.0.2", "other"), at("10.0.0.3")]
    known = {"10.0.0.1:5": False, "10.0.0.8:5": True, "10.0.0.9:5": False}
    assert plan(known, found) == Plan((at("10.0.0.2"), at("10.0.0.3")), ("10.0.0.9:5",))
    assert plan({}, []) == Plan((), ())


@given(st.dictionaries(st.sampled_from(IPS), st.booleans()), st.lists(st.sampled_from(IPS)))
def test_after_a_plan_there_are_those_found_and_those_needed(known: dict[str, bool], found: list[str]) -> None:
    is_needed = {at(ip_address).target: stays for ip_address, stays in known.items()}
    change = plan(is_needed, map(at, found))
    after = (is_needed.keys() - set(change.drop)) | {address.target for address in change.add}
    assert after == {at(ip_address).target for ip_address in found} | {t for t, stays in is_needed.items() if stays}
    assert len(change.add) == len({address.target for address in change.add} - is_needed.keys())
    assert set(change.drop) <= is_needed.keys()


@dataclass(eq=False)
class FakeReplica:
    """Keeps what it is told."""

    address: ReplicaAddress
    is_needed: bool = False
    num_starts: int = 0
    num_closes: int = 0

    def start(self) -> None:
        self.num_starts += 1

    async def close(self) -> None:
        self.num_closes += 1


@dataclass
class Script:
    """What DNS answers, one after another (``None``: it fails); before each, which replicas are needed from then on."""

    answers: Sequence[tuple[str, ...] | None]
    needed: Sequence[set[str]] = ()
    made: list[FakeReplica] = field(default_factory=list)
    seen: list[set[str]] = field(default_factory=list)
    is_done: asyncio.Event = field(default_factory=asyncio.Event)

    def make(self, address: ReplicaAddress) -> FakeReplica:
        self.made.append(FakeReplica(address))
        return self.made[-1]

    async def look_up(self, name: str, port: int) -> tuple[str, ...]:
        number = len(self.seen)
        self.seen.append({replica.address.target for replica in self.made if not replica.num_closes})
        if number == len(self.answers):
            self.is_done.set()
            await asyncio.Event().wait()
        if self.needed:
            for replica in self.made:
                replica.is_needed = replica.address.target.rpartition(":")[0] in self.needed[number]
        if (answer := self.answers[number]) is None:
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        return answer


async def run(script: Script, services: Sequence[str] = ("dns:llm:5",)) -> None:
    replicas = ReplicaSet(services, script.make, Resolving(0.0, script.look_up))
    replicas.start()
    async with asyncio.timeout(LIMIT_S):
        await script.is_done.wait()
    assert all(replica.num_starts == 1 for replica in script.made)
    num_there = len(replicas)
    assert num_there == len({replica.address.target for replica in replicas})
    await replicas.close()
    assert all(replica.num_closes == 1 for replica in script.made)


async def test_a_set_follows_its_name() -> None:
    script = Script([("10.0.0.1",), ("10.0.0.1", "10.0.0.2"), ("10.0.0.2",), ("fd00::1", "10.0.0.2")])
    await run(script)
    one, two, six = "10.0.0.1:5", "10.0.0.2:5", "[fd00::1]:5"
    assert script.seen == [set(), {one}, {one, two}, {two}, {two, six}]
    assert {replica.address.server_name for replica in script.made} == {"llm"}


async def test_a_dns_that_fails_or_answers_nothing_drops_nobody() -> None:
    script = Script([("10.0.0.1", "10.0.0.2"), None, (), None, ("10.0.0.2",)])
    await run(script)
    both = {"10.0.0.1:5", "10.0.0.2:5"}
    assert script.seen == [set(), both, both, both, both, {"10.0.0.2:5"}]


async def test_who_has_left_dns_stays_while_needed() -> None:
    script = Script(
        [("10.0.0.1", "10.0.0.2"), ("10.0.0.2",), ("10.0.0.2",), None], [set(), {"10.0.0.1"}, {"10.0.0.1"}, set()]
    )
    await run(script)
    both = {"10.0.0.1:5", "10.0.0.2:5"}
    assert script.seen[1:] == [both, both, both, {"10.0.0.2:5"}]


async def test_one_address_by_two_ways_is_one_replica() -> None:
    script = Script([("10.0.0.1", "10.0.0.1", "10.0.0.2")])
    await run(script, ["10.0.0.1:5", "10.0.0.1:5", "dns:llm:5"])
    assert [replica.address for replica in script.made] == [at("10.0.0.1", None), at("10.0.0.2")]


_ANSWERS = st.one_of(st.none(), st.lists(st.sampled_from(IPS), max_size=4).map(tuple))


@settings(max_examples=50)
@given(st.lists(st.tuples(_ANSWERS, st.sets(st.sampled_from(IPS))), max_size=8))
def test_whatever_dns_says_nobody_needed_goes_and_somebody_is_there(
    rounds: list[tuple[tuple[str, ...] | None, set[str]]],
) -> None:
    script = Script([answer for answer, _ in rounds], [needed for _, needed in rounds])
    asyncio.run(run(script))
    found: set[str] = set()
    for number, (answer, needed) in enumerate(rounds):
        before, after = script.seen[number], script.seen[number + 1]
        found = {at(ip_address).target for ip_address in answer} if answer else found
        assert after == found | {target for target in before if target.rpartition(":")[0] in needed}
        assert after or not before


def test_failures_are_told_ever_more_seldom() -> None:
    assert [number for number in range(1, 300) if is_told(number)] == [1, 8, 16, 32, 64, 128, 256]


async def test_a_name_that_never_resolves_is_told_and_waited_for(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    await run(Script([None] * 20))
    told = "dns:llm:5: does not resolve (Temporary failure in name resolution); waiting for it"
    assert [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING] == [told] * 3


async def test_a_name_that_resolves_no_more_is_told_with_what_stays(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    await run(Script([("10.0.0.1", "10.0.0.2"), (), ("10.0.0.1", "10.0.0.2")]))
    assert [record.getMessage() for record in caplog.records] == [
        "10.0.0.1:5: found by the name llm",
        "10.0.0.2:5: found by the name llm",
        "dns:llm:5: does not resolve any more (it has no address); known still: 10.0.0.1:5, 10.0.0.2:5",
        "dns:llm:5: resolves to 10.0.0.1, 10.0.0.2",
    ]


async def test_the_system_looks_names_up() -> None:
    assert await look_up("127.0.0.9", 5) == ("127.0.0.9",)
    assert set(await look_up("localhost", 5)) <= {"127.0.0.1", "::1"}
    with pytest.raises(socket.gaierror):
        await look_up("nobody.invalid", 5)
    with pytest.raises((OSError, UnicodeError)):
        await look_up("x" * 300, 5)
