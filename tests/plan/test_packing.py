"""Replicas on workers and GPUs: never more than there is, and always in the same places."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rayfleet_operator.plan import places
from rayfleet_operator.plan.admission import Admission, admit
from rayfleet_operator.plan.arithmetic import why_not
from rayfleet_operator.plan.demand import Ask
from rayfleet_operator.plan.packing import UNIT, Need, Packing, Replica, units
from rayfleet_operator.plan.room import Kind, Room, Worker
from rayfleet_operator.plan.size import Size

GIB = 2**30


def kind(
    name: str = "gpu",
    *,
    cpus: int = 8,
    memory: int = 32,
    gpus: int = 1,
    gpu_memory: int | None = None,
    accelerator: str = "",
    spot: bool = False,
    least: int = 1,
    most: int | None = None,
) -> Kind:
    worker = Worker(
        group=name,
        cpus=cpus,
        gpus=gpus,
        memory=memory * GIB,
        memory_text=f"{memory}Gi",
        gpu_memory=None if gpu_memory is None else gpu_memory * GIB,
        accelerator=accelerator,
        spot=spot,
    )
    return Kind(worker, least, least if most is None else most)


def filled(room: Room, *needs: Need) -> Packing:
    """Each of the needs has its place."""
    packing = Packing(room)
    for number, need in enumerate(needs):
        assert packing.place(Replica(f"m{number}", f"m{number}", need)), need
    return packing


def share(gpus: float, gpu_memory: float = 0, *, accelerator: str = "", cpus: float = 1) -> Need:
    return Need(cpus=cpus, gpus=gpus, gpu_memory=round(gpu_memory * GIB), accelerator=accelerator)


# What there is, what lies on it, what one more asks for, and what is said of that; "" where it fits.
SUMS: dict[str, tuple[list[Kind], list[Need], Need, str]] = {
    "it fits": ([kind()], [share(0.5), share(0.3)], share(0.2), ""),
    "ten times a tenth": ([kind(cpus=16)], [share(0.1)] * 9, share(0.1), ""),
    "the last is one too many": ([kind(cpus=16)], [share(0.1)] * 10, share(0.1), "needs 0.1 GPU, 0 free on 1 GPU"),
    "the issue's": (
        [kind(gpus=2)],
        [share(0.9), share(0.9)],
        share(0.5),
        "needs 0.5 GPU, 0.2 free on 2 GPUs",
    ),
    "enough in sum, on no GPU": (
        [kind(gpus=2)],
        [share(0.6), share(0.7)],
        share(0.5),
        "needs 0.5 GPU, 0.7 free on 2 GPUs, at most 0.4 on one",
    ),
    "its memory": (
        [kind(gpu_memory=16)],
        [share(0.5, 14)],
        share(0.3, 4),
        "needs 4 GiB of GPU memory, 2 GiB free on a GPU with 0.3 free",
    ),
    "memory that nobody knows": ([kind()], [share(0.5, 1000)], share(0.3, 1000), ""),
    "memory of the right GPU": (
        [kind(gpus=2, gpu_memory=16)],
        [share(0.9, 2), share(0.2, 15)],
        share(0.5, 2),
        "needs 2 GiB of GPU memory, 1 GiB free on a GPU with 0.5 free",
    ),
    "a whole one": ([kind()], [share(0.1)], share(1), "needs 1 GPU, 0.9 free on 1 GPU"),
    "two whole ones": ([kind(gpus=4)], [share(0.1), share(1)], share(2), ""),
    "two of one worker": (
        [kind(gpus=1, least=2)],
        [],
        share(2),
        "needs 2 GPUs of one worker, 1 free on one",
    ),
    "another kind": (
        [kind(accelerator="L4"), kind("big", accelerator="A100")],
        [],
        share(0.5, accelerator="H100"),
        "needs a GPU of the kind H100, and no worker has one (kinds that there are: A100, L4)",
    ),
    "full of its kind": (
        [kind(accelerator="L4"), kind("big", accelerator="A100")],
        [share(0.9, accelerator="L4")],
        share(0.5, accelerator="L4"),
        "needs 0.5 GPU of the kind L4, 0.1 free on 1 GPU",
    ),
    "no GPU at all": ([kind(gpus=0)], [], share(0.5), "needs 0.5 GPU, and there is none"),
    "CPUs": ([kind(cpus=2)], [share(0.1, cpus=1.5)], share(0.5), "needs 1 CPU, 0.5 free beside such a GPU"),
    "CPUs without a GPU": ([kind(cpus=2, gpus=0)], [], Need(cpus=3), "needs 3 CPUs, 2 free on one worker"),
    "memory": (
        [kind(memory=4, gpus=0)],
        [Need(cpus=1, memory=3 * GIB)],
        Need(cpus=1, memory=2 * GIB),
        "needs 2 GiB of memory, 1 GiB free on one worker",
    ),
    "no worker": ([], [], Need(cpus=1), "needs a worker, and there is none"),
    "spot only": ([kind(spot=True)], [], Need(cpus=1, steady=True), "needs a worker, and there is none"),
    "workers that may come": ([kind(most=3)], [share(0.9)], share(0.5), ""),
    "all that may come": (
        [kind(most=2)],
        [share(0.9), share(0.9)],
        share(0.5),
        "needs 0.5 GPU, 0.2 free on 2 GPUs",
    ),
}


@pytest.mark.parametrize("case", SUMS)
def test_one_more_fits_or_is_told_the_sum(case: str) -> None:
    kinds, there, more, told = SUMS[case]
    packing = filled(Room(tuple(kinds)), *there)
    assert packing.fits(more) == (told == "")
    assert packing.place(Replica("more", "more", more)) == (told == "")
    if told:
        assert why_not(packing, more) == told


@pytest.mark.parametrize("part", [0.1, 0.2, 0.05, 0.01, 0.025, 0.125])
def test_shares_that_sum_to_one_gpu_fit_on_one(part: float) -> None:
    packing = filled(Room((kind(),)), *[share(part, cpus=0.01)] * round(1 / part))
    assert not packing.fits(share(0.0001, cpus=0.01))


def test_what_needs_no_gpu_leaves_those_workers_to_others() -> None:
    room = Room((kind(cpus=2), kind("cpu", gpus=0, cpus=2, most=2)))
    packing = filled(room, *[Need(cpus=1)] * 4, share(1, cpus=2))
    assert [(each.worker.group, len(each.replicas)) for each in packing.workers()] == [
        ("gpu", 1),
        ("cpu", 2),
        ("cpu", 2),
    ]


def test_who_asks_for_no_kind_leaves_those_that_have_one_to_others() -> None:
    room = Room((kind("l4", accelerator="L4"), kind("any")))
    packing = filled(room, share(1), share(1, accelerator="L4"))
    assert [each.worker.group for each in packing.used] == ["any", "l4"]


def test_a_worker_in_use_comes_before_one_that_is_not() -> None:
    packing = filled(Room((kind("large", gpus=0, cpus=16), kind("small", gpus=0, cpus=2))), Need(cpus=9), Need(cpus=1))
    assert [(each.worker.group, len(each.replicas)) for each in packing.used] == [("large", 2)]


def test_shares_of_one_gpu_lie_together_and_whole_ones_find_room() -> None:
    packing = filled(Room((kind(gpus=2),)), share(0.5), share(0.3), share(0.2), share(1))
    (worker,) = packing.workers()
    assert [[each.app for each in gpu.replicas] for gpu in worker.gpus] == [["m0", "m1", "m2"], ["m3"]]


needs = st.builds(
    Need,
    cpus=st.sampled_from([0.1, 0.5, 1, 3]),
    memory=st.sampled_from([0, GIB, 7 * GIB]),
    gpus=st.sampled_from([0, 0.1, 0.33, 0.5, 0.7, 1, 2]),
    gpu_memory=st.sampled_from([0, GIB, 9 * GIB]),
    accelerator=st.sampled_from(["", "", "L4"]),
    steady=st.booleans(),
)
kinds = st.builds(
    kind,
    cpus=st.sampled_from([2, 4, 9]),
    memory=st.sampled_from([8, 16]),
    gpus=st.sampled_from([0, 1, 3]),
    gpu_memory=st.sampled_from([None, 10, 16]),
    accelerator=st.sampled_from(["", "L4"]),
    spot=st.booleans(),
    least=st.sampled_from([1, 2]),
    most=st.sampled_from([2, 4]),
)
rooms = st.lists(kinds, max_size=3).map(
    lambda found: Room(
        tuple(
            Kind(Worker(**{**vars(each.worker), "group": f"g{place}"}), each.least, each.most)
            for place, each in enumerate(found)
        )
    )
)


@st.composite
def demands(draw: st.DrawFn) -> list[Ask]:
    found = []
    for number in range(draw(st.integers(0, 8))):
        least = draw(st.integers(0, 3))
        live = draw(st.booleans())
        found.append(
            Ask(
                app=f"m{number}",
                label=f"m{number}",
                model=f"m{number}",
                need=draw(needs),
                size=Size(least, least + draw(st.integers(0, 2))),
                running=draw(st.integers(0, 4)) if live else 0,
                live=live,
                serves=live,
                born=draw(st.sampled_from(["", "2026-01-01T00:00:00Z"])),
            )
        )
    return found


def lying(admission: Admission) -> Counter[str]:
    """Replicas that have a place, by application."""
    return Counter(replica.app for worker in admission.workers() for replica in worker.replicas)


@given(rooms, demands())
@settings(max_examples=300, deadline=None)
def test_nothing_holds_more_than_it_has(room: Room, asks: list[Ask]) -> None:
    admission = admit(room, asks)
    number = Counter(worker.kind for worker in admission.packing.used)
    assert all(number[place] <= each.most for place, each in enumerate(room.kinds))
    for worker in admission.workers():
        assert sum(units(each.need.cpus) for each in worker.replicas) == units(worker.worker.cpus) - worker.cpus
        assert min(worker.cpus, worker.memory) >= 0
        assert all(each.need.may_run_on(worker.worker) for each in worker.replicas)
        for gpu in worker.gpus:
            assert 0 <= gpu.share == UNIT - sum(min(units(each.need.gpus), UNIT) for each in gpu.replicas)
            assert gpu.memory is None or gpu.memory >= 0
            assert len(gpu.replicas) == 1 or not any(each.need.whole for each in gpu.replicas)
        wanted = sum(each.need.whole or int(each.need.gpus > 0) for each in worker.replicas)
        assert sum(len(gpu.replicas) for gpu in worker.gpus) == wanted


@given(rooms, demands())
@settings(max_examples=300, deadline=None)
def test_nobody_who_serves_makes_way_for_who_is_new(room: Room, asks: list[Ask]) -> None:
    alone = lying(admit(room, [each for each in asks if each.live]))
    together = lying(admit(room, asks))
    assert all(together[app] >= number for app, number in alone.items())
    assert all(key not in admit(room, asks).refused for key in {each.key for each in asks if each.live})


@given(rooms, demands(), st.integers(0, 1000))
@settings(max_examples=200, deadline=None)
def test_the_order_in_which_they_come_changes_nothing(room: Room, asks: list[Ask], seed: int) -> None:
    shuffled = list(asks)
    random.Random(seed).shuffle(shuffled)
    one, other = admit(room, asks), admit(room, shuffled)
    assert places.of(one) == places.of(other)
    assert one.refused == other.refused


@given(rooms, demands())
@settings(max_examples=200, deadline=None)
def test_who_was_let_in_stays_and_who_waits_is_told_a_sum(room: Room, asks: list[Ask]) -> None:
    first = admit(room, asks)
    assert all(each.why.startswith("needs ") and each.replicas > 0 for each in first.waiting)
    given_now = [
        Ask(**{**vars(each), "live": True, "serves": True}) if each.key not in first.refused else each for each in asks
    ]
    second = admit(room, given_now)
    assert second.refused.keys() <= first.refused.keys()
    assert places.groups(first) == places.groups(admit(room, asks))


def test_a_thousand_replicas_take_no_longer_than_a_pass_may() -> None:
    """By states, not by workers: this counts in the millions otherwise."""
    room = Room((kind(gpus=8, cpus=64, most=1000), kind("cpu", gpus=0, cpus=16, most=1000)))
    asks = [
        Ask(app=f"m{n}", label=f"m{n}", model=f"m{n}", need=share(0.25 + 0.05 * (n % 5)), size=Size(50, 50), live=True)
        for n in range(60)
    ]
    assert admit(room, asks).waiting == ()


def test_a_crowd_that_waits_takes_no_longer_either() -> None:
    room = Room((kind(gpus=8, cpus=64, most=20),))
    live = [
        Ask(app=f"a{n}", label=f"a{n}", model=f"a{n}", need=share(0.35), size=Size(1, 1), live=True) for n in range(300)
    ]
    new = [
        Ask(app=f"b{n}", label=f"b{n}", model=f"b{n}", need=share(0.4 + n / 10_000), size=Size(1, 1))
        for n in range(1000)
    ]
    admission = admit(room, [*live, *new])
    assert len(admission.out) == 1000 - 20
