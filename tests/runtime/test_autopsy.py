"""How a child died, told from its exit status and from the kernel's books."""

import pytest

from streamq.runtime.autopsy import cause_of_death, oom_kills

V1 = ("9:name=systemd:/x\n4:memory,hugetlb:/pod/a\n0::/\n", "memory/pod/a/memory.oom_control")
V2 = ("0::/pod/a\n", "pod/a/memory.events")
BODIES = {
    V1: "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n",
    V2: "low 0\nhigh 0\nmax 9\noom 4\noom_kill 3\noom_group_kill 0\n",
}


def counted(tmp_path, groups, files):
    (tmp_path / "cgroup").write_text(groups)
    for name, body in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(body)
    return oom_kills(tmp_path / "cgroup", tmp_path)


@pytest.mark.parametrize("version", [V1, V2], ids=["v1", "v2"])
def test_the_kernel_counts_whom_it_killed(tmp_path, version):
    groups, file = version
    assert counted(tmp_path, groups, {file: BODIES[version]}) == 3


@pytest.mark.parametrize(
    "files", [{}, {V2[1]: ""}, {V2[1]: "oom_kill many\n"}, {V2[1]: "a b c\n"}], ids=["none", "empty", "word", "odd"]
)
def test_where_nobody_says_nothing_is_known(tmp_path, files):
    assert counted(tmp_path, V2[0], files) is None


def test_on_another_system_nothing_is_known(tmp_path):
    assert oom_kills(tmp_path / "none", tmp_path) is None


@pytest.mark.parametrize(
    ("status", "before", "after", "text"),
    [
        (9, 3, 4, "exited with code 9"),
        (0, None, None, "exited with code 0"),
        (-11, 3, 4, "was killed by SIGSEGV"),
        (-9, 3, 4, "was killed by SIGKILL while memory was short: oom_kill rose from 3 to 4"),
        (-9, 3, 3, "was killed by SIGKILL, and not because memory was short: oom_kill stayed at 3"),
        (-9, None, 3, "was killed by SIGKILL"),
        (-9, 3, None, "was killed by SIGKILL"),
        (-40, 3, 4, "was killed by signal 40"),
    ],
)
def test_what_is_known_is_told(status, before, after, text):
    assert cause_of_death(status, before, after) == text
