"""Scenarios whose faults are not kills of workers: brokers, networks, rebalances, bad records, files and clocks."""

from __future__ import annotations

import random
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial

from streamer.log.kafka_connection import Delivery
from streamer.testing.kafka_broker import KafkaBroker
from streamer.testing.kafka_cluster import KafkaCluster
from tests.chaos import brokers, network, one_file, poison
from tests.chaos.brokers import Lone, Several
from tests.chaos.clocks import Shift
from tests.chaos.history import Fed, History, history
from tests.chaos.network import Behind, behind
from tests.chaos.outside import Output
from tests.chaos.processes import come_or_go, comings_and_goings, jump, jumps, kill_one
from tests.chaos.run import uninterrupted
from tests.chaos.scenario import Order, Outcome, Row, Scenario
from tests.chaos.stage import Act, Around, Stage, compared, perform

FULL_KILLS = 500
"""A run of so many kills has these scenarios in full length; one of fewer is so much shorter."""
SECONDS = {"brokers": 200.0, "network": 240.0, "cluster": 200.0, "joins": 150.0, "clocks": 60.0, "poison": 60.0}
SECONDS |= {"mixed": 240.0, "early-ends": 20.0}
LEAST_S = 12.0
AWAY_S, SHORT_AWAY_S = 60.0, 4.0
POISON, LEAST_POISON = 10_000, 200
FILE_KILLS, LEAST_FILE_KILLS = 200, 15
FULL_DISKS, LEAST_FULL_DISKS = 6, 2


def whole(order: Order) -> bool:
    """Whether everything is to have its full length."""
    return order.kills >= FULL_KILLS


def part(order: Order, most: float, least: float) -> float:
    """As much of something as a run of this length has."""
    return max(least, most * min(1.0, order.kills / FULL_KILLS))


def fed(order: Order) -> History:
    """What these scenarios feed: the same for all of them, so that one undisturbed run is the measure of all."""
    return history(order.kind, max(1, order.kills // 8), generated=order.generated)


def restarted(order: Order) -> Outcome:
    """One broker that goes and comes back."""
    with KafkaBroker(data=order.folder / "broker") as broker:
        away_s = AWAY_S if whole(order) else SHORT_AWAY_S
        return _played("brokers", order, Lone(broker), brokers.restarts(broker, away_s=away_s))


def disturbed(order: Order) -> Outcome:
    """A proxy between the workers and their broker."""
    with behind(order.folder / "broker") as place:
        longest_s = 10.0 if whole(order) else 1.5
        return _played("network", order, place, network.disturbed(place.proxy, longest_s=longest_s))


def bereft(order: Order) -> Outcome:
    """Three brokers that lose one."""
    with KafkaCluster(data=order.folder / "broker") as cluster:
        away_s = 15.0 if whole(order) else 2.0
        return _played("cluster", order, Several(cluster), brokers.loses_one(cluster, away_s=away_s))


def joins(order: Order) -> Outcome:
    """A group that is never the same for long."""
    with KafkaBroker(data=order.folder / "broker") as broker:
        return _played("joins", order, Lone(broker), comings_and_goings)


def clocks(order: Order) -> Outcome:
    """Workers whose wall clocks jump."""
    shift = _clock(order)
    with KafkaBroker(data=order.folder / "broker") as broker:
        return _played("clocks", order, Lone(broker), jumps(shift), shift)


def early_ends(order: Order) -> Outcome:
    """The same where idle streams are ended by the wall clock: whatever waits in the backlog is answered before."""
    given, shift, seconds = fed(order), _clock(order), part(order, SECONDS["early-ends"], LEAST_S)
    expected = uninterrupted(order.shared, given)
    early = {
        name: replace(options, streams=replace(options.streams, end_early=True))
        for name, options in given.pipelines.items()
    }
    with KafkaBroker(data=order.folder / "broker") as broker:
        history = given._replace(pipelines=early)
        stage = Stage(Lone(broker), history, order.folder, seed=order.seed, seconds=seconds, clock=shift.path)
        stage.feed_all()
        found, wrong = perform(stage, jumps(shift))
    last = {record.key.decode(): f"{record.topic}/{record.partition}/{offset}/" for record, offset in _offsets(given)}
    rows = compared(stage, _before_the_end(expected, last), _before_the_end(found, last), wrong)
    return _over(order, [row._replace(fault=f"{row.fault}, end_early on") for row in rows], seconds)


def _offsets(given: History) -> Iterator[tuple[Fed, int]]:
    """Records with the offsets that they come to lie at."""
    next_of: Counter[tuple[str, int]] = Counter()
    for record in given.records:
        yield record, next_of[record.topic, record.partition]
        next_of[record.topic, record.partition] += 1


def _before_the_end(outputs: Sequence[Output], last: Mapping[str, str]) -> list[Output]:
    """Without what is said at each stream's last record: that it has ended, and what an end brings about."""
    return [output for output in outputs if not output.header("ce_id").startswith(last[output.header("ce_subject")])]


def mixed(delivery: Delivery, order: Order) -> Outcome:
    """All that may befall workers and one broker, in one run and in any order."""
    shift = _clock(order)
    with behind(order.folder / "broker") as place:
        return _played("mixed", order, place, partial(_any_of_them, place, shift, whole(order)), shift, delivery)


def _any_of_them(place: Behind, shift: Shift, long: bool, stage: Stage) -> None:
    falls = brokers.KINDS if long else stage.draw.sample(brokers.KINDS, 1)
    own: list[Callable[[], None]] = [partial(come_or_go, stage), partial(jump, stage, shift), partial(kill_one, stage)]
    acts = own * (3 if long else 1)
    kinds = network.KINDS if stage.delivery == "exactly_once" else network.PLAIN
    acts += [partial(network.strike, stage, place.proxy, kind, 4.0 if long else 0.7) for kind in kinds]
    acts += [partial(brokers.strike, stage, place.broker, kind, 8.0 if long else 1.0) for kind in falls]
    turns = 0
    while turns < len(acts) or not stage.over:
        if turns % len(acts) == 0:
            stage.draw.shuffle(acts)
        stage.live(stage.draw.uniform(0.1, 1.0))
        acts[turns % len(acts)]()
        turns += 1


def poisoned(order: Order) -> Outcome:
    """Ten thousand records that nobody can read, and a worker killed now and then."""
    times, seconds = int(part(order, POISON, LEAST_POISON)), part(order, SECONDS["poison"], LEAST_S)
    clean = fed(order)
    expected = uninterrupted(order.shared, clean)
    given, strewn = poison.poisoned(clean, times, random.Random(order.seed), order.folder / "spilled")
    with KafkaBroker(data=order.folder / "broker") as broker:
        stage = Stage(Lone(broker), given, order.folder, seed=order.seed, seconds=seconds)
        found, wrong = perform(stage, _killing_some)
    wrong += poison.wrongs(strewn, expected, found)
    if wrong:
        (order.folder / "differences.txt").write_text("\n".join(wrong) + "\n", encoding="utf-8")
    said = [f"{len(wrong)} in all, the first: {wrong[0]}"] if wrong else []
    times_of = {"records that nobody can read, among good ones": times, **stage.times}
    return _over(order, [Row(fault, "poisoned", n, {}, said) for fault, n in times_of.items()], seconds)


def _killing_some(stage: Stage) -> None:
    while not stage.over:
        stage.live(stage.draw.uniform(1.0, 6.0))
        kill_one(stage)


def over_one_file(order: Order) -> Outcome:
    """Processes over the SQLite log, killed, and without room."""
    draw, times = random.Random(order.seed), int(part(order, FILE_KILLS, LEAST_FILE_KILLS))
    killed = one_file.kills(order.folder / "kills", times, draw)
    full = one_file.full_disk(order.folder / "full", int(part(order, FULL_DISKS, LEAST_FULL_DISKS)), draw)
    rows = [
        Row("SIGKILL of who feeds or serves over one SQLite file", "sums", killed.times, {}, killed.wrong),
        Row("the disk of a SQLite file is full", "sums", full.times, {}, full.wrong),
    ]
    return _over(order, rows, times * sum(one_file.PAUSE_S) / 2)


def _clock(order: Order) -> Shift:
    order.folder.mkdir(parents=True, exist_ok=True)
    return Shift(order.folder / "clock", new=True)


def _played(
    name: str,
    order: Order,
    around: Around,
    act: Act,
    shift: Shift | None = None,
    delivery: Delivery = "exactly_once",
) -> Outcome:
    given, seconds = fed(order), part(order, SECONDS[name], LEAST_S)
    expected = uninterrupted(order.shared, given)
    clock = None if shift is None else shift.path
    stage = Stage(around, given, order.folder, seed=order.seed, seconds=seconds, clock=clock, delivery=delivery)
    found, wrong = perform(stage, act)
    return _over(order, compared(stage, expected, found, wrong), seconds)


def _over(order: Order, rows: Sequence[Row], seconds: float) -> Outcome:
    if all(row.clean for row in rows):
        shutil.rmtree(order.folder / "broker", ignore_errors=True)
    return Outcome(rows, seconds)


def _in_time(play: Callable[[Order], Outcome], order: Order) -> Outcome:
    """Nothing is begun for which there is no time left."""
    return play(order) if order.seconds >= LEAST_S else Outcome([], 0.0, finished=False)


PLAYS: Mapping[str, Callable[[Order], Outcome]] = {
    "brokers": restarted,
    "network": disturbed,
    "cluster": bereft,
    "joins": joins,
    "clocks": clocks,
    "early-ends": early_ends,
    "mixed": partial(mixed, "exactly_once"),
    "mixed-at-least-once": partial(mixed, "at_least_once"),
    "poison": poisoned,
    "one-file": over_one_file,
}
OUTAGES: Sequence[Scenario] = [Scenario(name, partial(_in_time, play)) for name, play in PLAYS.items()]
