"""How a child process died: as much as its exit status and the kernel's own books say."""

import signal
from pathlib import Path

GROUPS = Path("/proc/self/cgroup")
ROOT = Path("/sys/fs/cgroup")


def oom_kills(groups: Path = GROUPS, root: Path = ROOT) -> int | None:
    """How often the kernel killed a process of our control group because memory was short.

    Args:
        groups: lists the control groups of this process (proc(5), ``/proc/PID/cgroup``).
        root: where they are mounted.

    Returns:
        None where nobody says: another system, or a control group that is not mounted here.
    """
    try:
        lines = groups.read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if not controllers:  # cgroup v2: memory.events of the one group
            file = root / path.lstrip("/") / "memory.events"
        elif "memory" in controllers.split(","):  # cgroup v1
            file = root / "memory" / path.lstrip("/") / "memory.oom_control"
        else:
            continue
        counted = _oom_kill_in(file)
        if counted is not None:
            return counted
    return None


def cause_of_death(status: int, before: int | None, after: int | None) -> str:
    """What is known about a death.

    Args:
        status: exit code, or minus the number of the signal that killed it.
        before: ``oom_kills()`` when it was started.
        after: and when it was found dead.
    """
    if status >= 0:
        return f"exited with code {status}"
    try:
        killed = f"was killed by {signal.Signals(-status).name}"
    except ValueError:  # a real-time signal has no name
        killed = f"was killed by signal {-status}"
    if status != -signal.SIGKILL or before is None or after is None:
        return killed
    if after > before:
        return f"{killed} while memory was short: oom_kill rose from {before} to {after}"
    return f"{killed}, and not because memory was short: oom_kill stayed at {after}"


def _oom_kill_in(file: Path) -> int | None:
    try:
        counts = dict(line.split() for line in file.read_text().splitlines())
        return int(counts["oom_kill"])
    except (OSError, ValueError, KeyError):
        return None
