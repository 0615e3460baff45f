"""What a process holds and what it is confined by, read from the kernel's files of either version of cgroups."""

import mmap

import numpy as np
import psutil
import pytest

from worker import memory, tidy

SIZE = 64 << 20


def test_arrays_are_held_and_maps_of_files_are_not(tmp_path):
    before = memory.held()
    array = np.ones(SIZE, np.uint8)
    assert SIZE * 0.9 < memory.held() - before < SIZE * 1.5
    del array
    (tmp_path / "file").write_bytes(bytes(SIZE))
    before, resident_before = memory.held(), psutil.Process().memory_info().rss
    with (tmp_path / "file").open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        assert sum(mapped[place] for place in range(0, SIZE, 4096)) == 0
        assert psutil.Process().memory_info().rss - resident_before > SIZE * 0.9  # the control: they are in memory
        assert memory.held() - before < SIZE * 0.5


@pytest.fixture
def cgroups(tmp_path, monkeypatch):
    """Write files of a process in cgroup /outer/inner."""
    monkeypatch.setattr(memory, "_CGROUPS", tmp_path / "cgroups")
    monkeypatch.setattr(memory, "_MEMBERSHIP", tmp_path / "membership")
    monkeypatch.setattr(memory, "_KERNEL_COUNTERS", tmp_path / "vmstat")
    (tmp_path / "vmstat").write_text("pgfault 5\noom_kill 9\n")

    def write(membership, **files):
        (tmp_path / "membership").write_text(membership)
        for name, text in files.items():
            *folders, file = name.split("__")
            place = tmp_path.joinpath("cgroups", *folders, file.replace("_", ".", 1))
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(text)

    return write


def test_the_tightest_cgroup_of_version_2_counts(cgroups):
    cgroups(
        "0::/outer/inner\n",
        cgroup_controllers="memory\n",
        outer__memory_max="1000000\n",
        outer__memory_current="900000\n",
        outer__memory_stat="anon 1\ninactive_file 50000\n",
        outer__inner__memory_max="max\n",
        outer__inner__memory_current="800000\n",
        outer__inner__memory_events="low 0\noom 4\noom_kill 3\n",
    )
    assert memory.free() == 150_000
    assert memory.oom_kills() == 3


def test_a_cgroup_of_version_1(cgroups):
    cgroups(
        "4:memory:/outer/inner\n0::/\n",
        memory__outer__inner__memory_limit_in_bytes="1000000\n",
        memory__outer__inner__memory_usage_in_bytes="600000\n",
        memory__outer__inner__memory_oom_control="oom_kill_disable 0\nunder_oom 0\noom_kill 2\n",
    )
    assert memory.free() == 400_000
    assert memory.oom_kills() == 2


def test_in_a_container_the_mounted_cgroup_is_its_own(cgroups):
    cgroups(
        "4:memory:/the/hosts/path\n",
        memory__memory_limit_in_bytes="1000\n",
        memory__memory_usage_in_bytes="2000\n",
        memory__memory_oom_control="oom_kill 1\n",
    )
    assert memory.free() == 0
    assert memory.oom_kills() == 1


def test_without_cgroups_the_machine_counts(cgroups, tmp_path):
    cgroups("")
    assert 0 < memory.free() <= psutil.virtual_memory().total
    assert memory.oom_kills() == 9
    (tmp_path / "vmstat").unlink()
    assert memory.oom_kills() is None


def test_programs_are_dropped_only_where_a_process_holds_too_much(monkeypatch):
    import jax

    dropped = []
    monkeypatch.setattr(jax, "clear_caches", lambda: dropped.append(1))
    tidy.tidy(memory.held() * 2)
    assert dropped == []
    tidy.tidy(memory.held() // 2)
    assert dropped == [1]
