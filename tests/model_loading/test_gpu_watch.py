"""Which process on a GPU is this one, and how much it has. There is no GPU here: NVML and CUDA are stand-ins."""

from __future__ import annotations

import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from model_loading import models
from nvml_stand_in import BUS_ID, Card

from rayfleet_serving.model import gpu_watch
from rayfleet_serving.model.errors import LoadError
from rayfleet_serving.model.flavors import load
from rayfleet_serving.model.gpu_watch import GpuAccount, open_account
from rayfleet_serving.model.process_memory import MIB
from rayfleet_serving.model.share import GPU_SLACK, Share

GIB = 1024 * MIB
OURS, OTHERS = 51_001, 77


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Card:
    """Another replica has 3 GiB of it, and this one takes 400 MiB when it opens its context."""
    monkeypatch.setattr(gpu_watch.tempfile, "gettempdir", lambda: str(tmp_path))
    card = Card({OTHERS: 3 * GIB})
    card.on_context = lambda: card.processes.update({OURS: 400 * MIB})
    monkeypatch.setitem(sys.modules, "pynvml", card.module())
    return card


def account(card: Card) -> GpuAccount:
    found = open_account(card)  # type: ignore[arg-type]  # it stands in
    assert found is not None
    return found


def test_it_is_the_one_that_appears_with_its_context_whatever_its_number_outside(card: Card) -> None:
    found = account(card)
    assert found.used() == 400 * MIB
    card.processes[OURS] = 2 * GIB
    card.processes[OTHERS] = 9 * GIB
    assert found.used() == 2 * GIB


def test_a_process_of_the_same_number_that_was_there_before_is_not_it(card: Card) -> None:
    """In a container, this process' own number may be that of another one on the node."""
    card.processes[os.getpid()] = 7 * GIB
    assert account(card).used() == 400 * MIB


def test_its_own_number_decides_where_two_appear(card: Card) -> None:
    card.on_context = lambda: card.processes.update({os.getpid(): 500 * MIB, OURS: 400 * MIB})
    assert account(card).used() == 500 * MIB


def test_where_two_appear_nothing_is_known_until_one_is_gone(card: Card) -> None:
    card.on_context = lambda: card.processes.update({OURS: 400 * MIB, OURS + 1: 600 * MIB})
    found = account(card)
    assert found.used() is None
    del card.processes[OURS + 1]
    assert found.used() == 400 * MIB


def test_an_empty_list_strikes_nobody_out(card: Card) -> None:
    card.on_context = lambda: card.processes.update({OURS: 400 * MIB, OURS + 1: 600 * MIB})
    found = account(card)
    had, card.processes = card.processes, {}
    assert found.used() is None
    del had[OURS + 1]
    card.processes = had
    assert found.used() == 400 * MIB


def test_clients_of_mps_are_listed_apart(card: Card) -> None:
    card.on_context = lambda: card.under_mps.update({OURS: 300 * MIB})
    assert account(card).used() == 300 * MIB


def test_the_server_that_mps_starts_for_its_first_client_is_not_it(card: Card) -> None:
    def happens() -> None:
        card.processes[OURS + 1] = 30 * MIB
        card.under_mps[OURS] = 300 * MIB

    card.on_context = happens
    assert account(card).used() == 300 * MIB


def test_of_several_that_appear_at_once_the_library_gets_what_the_smallest_context_leaves(card: Card) -> None:
    card.on_context = lambda: card.processes.update({OURS: 400 * MIB, OURS + 1: 600 * MIB})
    assert share(card, GIB).library_bytes == 624 * MIB


def test_replicas_of_one_machine_open_their_contexts_one_after_the_other(card: Card) -> None:
    """Else each would see the other appear, and neither would know which one it is."""
    found: list[int | None] = []

    class Replica:
        def __init__(self, process: int) -> None:
            self.process = process

        def bus_ids(self) -> list[str]:
            return [BUS_ID]

        def open_context(self) -> None:
            time.sleep(0.2)
            card.processes[self.process] = self.process
            time.sleep(0.2)

    def start(process: int) -> None:
        opened = open_account(Replica(process))  # type: ignore[arg-type]
        assert opened is not None
        found.append(opened.used())

    threads = [threading.Thread(target=start, args=(OURS + number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found, key=str) == [OURS, OURS + 1, OURS + 2]


@pytest.mark.parametrize("why", ["another has it for too long", "it is another user's"])
def test_a_turn_that_does_not_come_is_not_waited_for(why: str, card: Card, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_watch, "TURN_S", 0.1)
    if why == "it is another user's":
        monkeypatch.setattr(gpu_watch.tempfile, "gettempdir", lambda: "/no/such/folder")
        assert account(card).used() == 400 * MIB
    else:
        with gpu_watch._turn(BUS_ID):
            assert account(card).used() == 400 * MIB


@pytest.mark.parametrize("on_context", ["nothing appears", "it breaks"])
def test_what_nvml_does_not_tell_is_not_watched(on_context: str, card: Card, caplog: Any) -> None:
    def happens() -> None:
        card.broken = on_context == "it breaks"

    card.on_context = happens
    assert open_account(card) is None  # type: ignore[arg-type]
    assert "watched" in caplog.text or "enforced only by the libraries" in caplog.text


def test_without_nvml_nothing_is_watched(monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert open_account(Card()) is None  # type: ignore[arg-type]
    assert "nvidia-ml-py is not installed" in caplog.text


def test_a_card_that_is_lost_later_says_nothing_and_its_log_says_so_once(card: Card, caplog: Any) -> None:
    found = account(card)
    card.broken = True
    assert [found.used() for _ in range(5)] == [None] * 5
    assert caplog.text.count("GPU is lost") == 1
    card.broken = False
    assert found.used() == 400 * MIB
    card.broken = True
    assert found.used() is None
    assert caplog.text.count("GPU is lost") == 2


def test_of_several_gpus_the_one_with_most_counts(card: Card) -> None:
    card.others = {OTHERS: 9 * GIB}
    held = share(card, 6 * GIB)
    assert (held.gpu_memory_used(), held.over()) == (400 * MIB, None), "it has nothing on the second one yet"
    card.others[OURS] = 7 * GIB
    assert held.over() == "takes 7 GiB of GPU memory, its gpuMemory is 6 GiB"


def share(card: Card, cap: int) -> Share:
    return Share(memory_bytes=None, gpu_memory_bytes=cap, has_gpu=True, account=account(card))


def test_a_library_gets_what_cudas_own_context_leaves(card: Card) -> None:
    assert share(card, GIB).library_bytes == 624 * MIB


def test_a_cap_that_cuda_alone_fills_is_refused_with_both_numbers(card: Card) -> None:
    with pytest.raises(LoadError, match="its gpuMemory is 256 MiB, and CUDA alone takes 400 MiB") as refused:
        share(card, 256 * MIB)
    assert refused.value.reason == "OutOfMemory"


def test_whatever_allocates_is_told_of_beyond_the_cap_and_its_slack(card: Card) -> None:
    held = share(card, 6 * GIB)
    card.processes[OURS] = 6 * GIB + GPU_SLACK
    assert held.over() is None
    card.processes[OURS] = int(7.1 * GIB)
    assert held.over() == "takes 7.1 GiB of GPU memory, its gpuMemory is 6 GiB"
    assert held.gpu_memory_used() == int(7.1 * GIB)
    card.processes[OURS] = None
    assert held.over() is None


def test_a_model_that_fills_most_of_its_share_by_itself_has_not_filled_it(card: Card, saved: Any) -> None:
    held = share(card, 6 * GIB)
    card.processes[OURS] = 5 * GIB
    load(saved(models.sklearn_frame), allow_code_execution=False, gpu_memory_bytes=None, share=held)
    card.processes[OURS] += 128 * MIB
    assert not held.full(), "a row that was too large has left a library's workspace"
    card.processes[OURS] = 6 * GIB
    assert held.full()


def test_a_share_of_which_nothing_is_known_is_not_full() -> None:
    assert not Share(memory_bytes=None, gpu_memory_bytes=GIB, has_gpu=True).full()
    assert not Share(memory_bytes=None, gpu_memory_bytes=None).full()
