#!/usr/bin/python3
"""Measures kiln-agent against Debian's cloud-init, in turn, on the same user-data and the same roots.

    packaging/dev/bench.py --foundation DIR --agent-deb FILE [--runs N]     (as root; `make bench`)

Three trees come from one foundation: with its own cloud-init, with kiln-agent in its place, and with
neither. Every run gets a fresh overlay. Two things are measured:

- the work: all stages as separate processes in a container, as the units run them: wall time, CPU,
  peak memory, bytes read from the disk with a cold cache. CPU and memory of the agent itself are told
  apart from its children's (useradd, ssh-keygen, the user's commands), which are the same work
  whoever starts them. One kind of host key, as the time that an RSA key takes is chance;
- the boot: a real systemd boot, and when sshd was active in it.
"""

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

KEYS = [
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIK6+O6IOp2dAR6deSXhuAa+j/Jrzn/1GeLPLDOp+h/eF ann@example.org",
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIMuFiQLdVnFk67lF+28lh1mLhUeW6VQ1b+VyFA+STcTM bob@example.org",
]
USER_DATA = f"""#cloud-config
hostname: bench
fqdn: bench.example.org
manage_etc_hosts: true
ssh_genkeytypes: [ed25519]
ssh_authorized_keys:
  - {KEYS[0]}
  - {KEYS[1]}
write_files:
  - {{path: /etc/bench/one, content: "one\\n", permissions: '0600'}}
  - {{path: /etc/bench/two, content: "two\\n", permissions: '0644'}}
  - {{path: /etc/bench/three, content: "three\\n", owner: 'root:adm'}}
runcmd:
  - echo one >>/var/tmp/ran
  - [sh, -c, echo two >>/var/tmp/ran]
  - echo three >>/var/tmp/ran
"""
STAGES = {
    "kiln-agent": [f"kiln-agent boot --stage {stage}" for stage in ("local", "init", "final")],
    "cloud-init": ["cloud-init init --local", "cloud-init init"]
    + [f"cloud-init modules --mode={mode}" for mode in ("config", "final")],
    # What the container and its shell read themselves.
    "none": ["true"],
}
COLD = "read from disk with a cold cache, MB"
# Python tells at its end what it has cost itself; its children are not in RUSAGE_SELF.
SITECUSTOMIZE = """
import atexit, resource
def tell():
    u = resource.getrusage(resource.RUSAGE_SELF)
    with open("/var/tmp/own", "a") as f:
        f.write(f"{(u.ru_utime + u.ru_stime) * 1e3} {u.ru_maxrss}\\n")
atexit.register(tell)
"""
NSPAWN = ["systemd-nspawn", "--quiet", "--register=no", "--keep-unit", "--private-network", "--resolv-conf=off"]
ENVIRONMENT = os.environ | {"SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1", "LC_ALL": "C.UTF-8"}


def run(command, **options):
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, **options)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))} exited {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout


class Overlay:
    """A throwaway tree over another one. What is written stays in memory: the disk that this machine
    happens to have is not measured, but for what is read from it."""

    def __init__(self, lower):
        self.folder = Path(tempfile.mkdtemp(prefix="kiln-bench-", dir="/var/tmp"))
        run(["mount", "-t", "tmpfs", "kiln-bench", self.folder])
        self.root = self.folder / "root"
        for name in ("root", "upper", "work"):
            (self.folder / name).mkdir()
        options = f"lowerdir={lower},upperdir={self.folder}/upper,workdir={self.folder}/work"
        run(["mount", "-t", "overlay", "overlay", "-o", options, self.root])

    def __enter__(self):
        return self.root

    def __exit__(self, *_):
        run(["umount", "-l", self.root])
        run(["umount", "-l", self.folder])
        self.folder.rmdir()


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def make_tree(foundation, to, agent, deb):
    """A full tree with one of the agents, or with none."""
    if to.exists():
        shutil.rmtree(to)
    run(["cp", "-a", foundation, to])
    chroot = ["chroot", to, "env", "DEBIAN_FRONTEND=noninteractive", "PATH=/usr/sbin:/usr/bin:/sbin:/bin"]
    if agent == "kiln-agent":
        shutil.copy(deb, to / "agent.deb")
        run([*chroot, "dpkg", "--purge", "--force-depends", "cloud-init"])
        run([*chroot, "apt-get", "autoremove", "-y", "--purge"])
        run([*chroot, "dpkg", "-i", "/agent.deb"])
        (to / "agent.deb").unlink()
    elif agent == "none":
        run([*chroot, "dpkg", "--purge", "--force-depends", "cloud-init"])
        run([*chroot, "apt-get", "autoremove", "-y", "--purge"])
        run([*chroot, "ssh-keygen", "-A"])
    else:
        write(to / "etc/cloud/cloud.cfg.d/99-bench.cfg", "datasource_list: [NoCloud]\n")
        for own in to.glob("etc/python3.*"):
            with (own / "sitecustomize.py").open("a") as customization:
                customization.write(SITECUSTOMIZE)
    for name in ("user-data", "meta-data"):
        text = USER_DATA if name == "user-data" else "instance-id: i-bench\n"
        write(to / "var/lib/cloud/seed/nocloud" / name, text)
    return to


def installed_size(tree):
    return int(run(["du", "-sxk", "--apparent-size", tree]).split()[0]) / 1024


def drop_caches():
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("3\n")


def disk_reads():
    """Bytes that this process and all the children it has waited for have read from a disk."""
    fields = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(fields["read_bytes"])


def work(tree, agent, cold):
    """One run of all stages in a container; what it cost."""
    # bash measures each command with its children, to the millisecond.
    lines = ["TIMEFORMAT='%R %U %S'"]
    for index, stage in enumerate(STAGES[agent]):
        lines.append(f"{{ time {stage} >/dev/null 2>/var/tmp/said-{index} ; }} 2>>/var/tmp/times")
    with Overlay(tree) as root:
        write(root / "var/tmp/bench.sh", "\n".join(lines) + "\n")
        (root / "etc/ssh").mkdir(exist_ok=True)
        if cold:
            drop_caches()
        before = disk_reads()
        run([*NSPAWN, "-D", root, "/bin/bash", "/var/tmp/bench.sh"])
        read = disk_reads() - before
        times = [list(map(float, line.split())) for line in (root / "var/tmp/times").read_text().splitlines()]
        if agent == "none":
            return {"read from disk, MB": read / 1e6}
        if (root / "var/tmp/ran").read_text() != "one\ntwo\nthree\n":
            sys.exit(f"{agent} did not run the commands: {list((root / 'var/tmp').iterdir())}")
        if agent == "kiln-agent":
            said = "".join((root / f"var/tmp/said-{i}").read_text() for i in range(len(STAGES[agent])))
            own = re.findall(r"([\d.]+) ms of it CPU of the agent itself, (\d+) KiB", said)
        else:
            own = [line.split() for line in (root / "var/tmp/own").read_text().splitlines()]
    cpu = sum(user + system for _, user, system in times) * 1e3
    own_cpu = sum(float(ms) for ms, _ in own)
    return {
        "wall, ms": sum(wall for wall, _, _ in times) * 1e3,
        "CPU of the agent itself, ms": own_cpu,
        "CPU of its children, ms": max(cpu - own_cpu, 0),
        "peak memory of the agent, MB": max(int(kib) for _, kib in own) / 1024,
        "read from disk, MB": read / 1e6,
    }


def sshd_active(tree):
    """A real boot: milliseconds from the start of userspace until sshd was active."""
    with Overlay(tree) as root:
        write(
            root / "etc/systemd/system/bench.service",
            "[Unit]\nAfter=ssh.service\n[Service]\nType=oneshot\nExecStart=/bin/sh -c 'systemctl show "
            "ssh.service -p ActiveState -p ActiveEnterTimestampMonotonic >/var/tmp/ssh; "
            "systemctl show -p UserspaceTimestampMonotonic >>/var/tmp/ssh; "
            "systemctl poweroff --no-block'\n",
        )
        wants = root / "etc/systemd/system/multi-user.target.wants"
        wants.mkdir(parents=True, exist_ok=True)
        (wants / "bench.service").symlink_to("/etc/systemd/system/bench.service")
        subprocess.run([*NSPAWN, "-b", "--console=pipe", "-D", root], env=ENVIRONMENT, capture_output=True, timeout=120)
        told = dict(line.split("=") for line in (root / "var/tmp/ssh").read_text().splitlines())
    if told["ActiveState"] != "active":
        sys.exit(f"sshd did not start in {tree}: {told}")
    return (int(told["ActiveEnterTimestampMonotonic"]) - int(told["UserspaceTimestampMonotonic"])) / 1e3


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--foundation", type=Path, required=True)
    arguments.add_argument("--agent-deb", type=Path, required=True)
    arguments.add_argument("--work", type=Path, default=Path("target/bench"))
    arguments.add_argument("--runs", type=int, default=7)
    options = arguments.parse_args()
    if os.geteuid():
        sys.exit("bench.py needs root: it boots machines; run it with sudo")
    options.work.mkdir(parents=True, exist_ok=True)
    agents = ("kiln-agent", "cloud-init")
    names = (*agents, "none")
    trees = {
        name: make_tree(options.foundation, (options.work / name).absolute(), name, options.agent_deb) for name in names
    }
    figures = {name: {} for name in names}

    def note(name, figure, value):
        figures[name].setdefault(figure, []).append(value)

    for number in range(options.runs):
        print(f"run {number + 1} of {options.runs}", file=sys.stderr)
        # Each is run once to have it in memory and once to be measured; what empties the memory comes last.
        for agent in agents:
            work(trees[agent], agent, cold=False)
            for figure, value in work(trees[agent], agent, cold=False).items():
                if not figure.startswith("read"):
                    note(agent, figure, value)
        for name in names:
            sshd_active(trees[name])
            note(name, "sshd active in a real boot, ms", sshd_active(trees[name]))
        for name in names:
            note(name, COLD, work(trees[name], name, cold=True)["read from disk, MB"])

    median = {name: {f: statistics.median(v) for f, v in of.items()} for name, of in figures.items()}
    bare = installed_size(trees["none"])
    for agent in agents:
        median[agent][COLD] -= median["none"][COLD]
        median[agent]["installed size, MB"] = installed_size(trees[agent]) - bare
        median[agent]["delay of sshd, ms"] = (
            median[agent]["sshd active in a real boot, ms"] - median["none"]["sshd active in a real boot, ms"]
        )
    print(f"median of {options.runs} runs each, in turn    kiln-agent    cloud-init       ratio")
    for figure in median["kiln-agent"]:
        kiln, peer = median["kiln-agent"][figure], median["cloud-init"][figure]
        ratio = f"{peer / kiln:8.1f} x" if kiln > 0.05 else "       -"
        print(f"{figure:<40} {kiln:10.1f} {peer:13.1f}  {ratio}")
    print(f"sshd without either agent is active after {median['none']['sshd active in a real boot, ms']:.1f} ms")
    (options.work / "figures.json").write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
