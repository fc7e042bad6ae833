#!/usr/bin/python3
"""Measures what kiln adds to packer: a bake by kiln and `packer build` of the very same folder, in turn.

    packaging/dev/bench-bake.py --foundation DIR --agent-deb FILE [--kiln FILE] [--runs N]
                                                                   (as root; `make bench`)

All happens in a lab of its own. Three figures have a bound, and a figure over its bound makes it exit 1:

- kiln's overhead: the time of `kiln bake` less that of the packer that it runs;
- kiln's peak memory;
- the end of the gate: from the agent's last status on the machine to the gate's verdict there.

The time of a plain `packer build` of the same folder is told beside that of `kiln bake`.
"""

import argparse
import datetime
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

OWNER = "136693071363"
# The agent works on for a while after the gate has begun to wait, as it does where there is something to do. Without the proof, which packer alone has not either.
KILN_YAML = f"""\
defaults: {{target: lab, owner: sre, environment: bench, ssh_username: admin, gate_timeout: 5m, prove: false}}
images:
  golden: {{layer: golden, from: {{ami: {{owners: ["{OWNER}"], name: "debian-12-amd64-bench"}}}}}}
  app: {{layer: app, from: golden, user_data: {{ssh_genkeytypes: [ed25519], runcmd: ["sleep 4"]}}}}
targets:
  lab: {{kind: amazon-ebs, endpoint: lab}}
"""
# Stands before packer on the path: keeps the folder that it runs in, and the time it takes.
WRAPPER = """\
#!/bin/sh
[ "$1" = build ] || exec {packer} "$@"
rm -rf {kept} && cp -a . {kept}
date +%s.%N >{kept}.times
code=0
{packer} "$@" || code=$?
date +%s.%N >>{kept}.times
exit $code
"""
OVERHEAD, MEMORY, GATE = "kiln's overhead, ms", "kiln's peak memory, MB", "the end of the gate, ms"
BOUNDS = {OVERHEAD: 1000, MEMORY: 100, GATE: 100}
WHOLE, PLAIN = "kiln bake, ms", "plain packer build, ms"


def fail(command, said):
    sys.exit(f"{' '.join(map(str, command))} failed:\n{said}")


def run(command, **options):
    done = subprocess.run(command, capture_output=True, text=True, **options)
    if done.returncode:
        fail(command, done.stdout + done.stderr)
    return done.stdout


def peak_memory(pid):
    """What a process has had at most, in MB; none when it is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return None
    peak = [line.split()[1] for line in lines if line.startswith("VmHWM:")]
    return int(peak[0]) / 1024 if peak else None


def seconds(text):
    return datetime.datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()


def bake(kiln, folder, kept, environment):
    """One bake by kiln, and its figures."""
    report = folder / "report"
    shutil.rmtree(report, ignore_errors=True)
    command = [kiln, "bake", "app", "--rebuild", "--report", report]
    with (folder / "said").open("w+") as said:
        began = time.time()
        child = subprocess.Popen(command, cwd=folder, env=environment, stdout=said, stderr=said)
        peak = 0
        while child.poll() is None:
            peak = max(peak, peak_memory(child.pid) or 0)
            time.sleep(0.02)
        whole = time.time() - began
        if child.returncode:
            said.seek(0)
            fail(command, said.read())
    start, end = map(float, Path(f"{kept}.times").read_text().split())
    status = json.loads((report / "status.json").read_text())
    verdict = (report / "gate.json").stat().st_mtime
    return {
        WHOLE: whole * 1e3,
        OVERHEAD: (whole - (end - start)) * 1e3,
        MEMORY: peak,
        GATE: (verdict - seconds(status["finished"])) * 1e3,
    }


def plain(kiln, packer, kept):
    """`packer build` of the folder that kiln gave it, in the lab's network."""
    folder = Path(f"{kept}.plain")
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(kept, folder, symlinks=True)
    began = time.time()
    run([kiln, "lab", "exec", "--", packer, "build", "-machine-readable", "template.json"], cwd=folder)
    return (time.time() - began) * 1e3


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--foundation", type=Path, required=True)
    arguments.add_argument("--agent-deb", type=Path, required=True)
    arguments.add_argument("--kiln", type=Path, default=Path("target/debug/kiln"))
    arguments.add_argument("--work", type=Path, default=Path("target/bench"))
    arguments.add_argument("--runs", type=int, default=5)
    options = arguments.parse_args()
    if os.geteuid():
        sys.exit("bench-bake.py needs root: it enters the lab's network; run it with sudo")
    packer, kiln = shutil.which("packer"), options.kiln.absolute()
    if packer is None:
        sys.exit("packer is not on the path: packaging/dev/prerequisites.sh bench")
    os.environ["KILN_LAB"] = os.environ.get("KILN_LAB", "bench")
    figures = {name: [] for name in (WHOLE, PLAIN, *BOUNDS)}
    with tempfile.TemporaryDirectory(prefix="kiln-bench-", dir="/var/tmp") as folder:
        folder = Path(folder)
        (folder / "kiln.yaml").write_text(KILN_YAML)
        (folder / "bin").mkdir()
        kept = folder / "kept"
        wrapper = folder / "bin/packer"
        wrapper.write_text(WRAPPER.format(packer=packer, kept=kept))
        wrapper.chmod(0o755)
        environment = os.environ | {"PATH": f"{folder}/bin:{os.environ['PATH']}", "KILN_STATE_DIR": str(folder / "state")}
        run([kiln, "lab", "up"])
        try:
            foundation = options.foundation.absolute()
            run([kiln, "lab", "import", foundation, "--name", "debian-12-amd64-bench", "--owner", OWNER])
            run([kiln, "bake", "golden", "--agent-deb", options.agent_deb.absolute()], cwd=folder)
            # Everything is in memory then.
            bake(kiln, folder, kept, environment)
            for number in range(options.runs):
                print(f"bake {number + 1} of {options.runs}", file=sys.stderr)
                for name, value in bake(kiln, folder, kept, environment).items():
                    figures[name].append(value)
                figures[PLAIN].append(plain(kiln, packer, kept))
        finally:
            run([kiln, "lab", "down"])
    options.work.mkdir(parents=True, exist_ok=True)
    (options.work / "bake-figures.json").write_text(json.dumps(figures, indent=1) + "\n")
    print(f"median of {options.runs} bakes, in turn         median     bound")
    over = []
    for name, values in figures.items():
        median, bound = statistics.median(values), BOUNDS.get(name)
        print(f"{name:<36} {median:8.1f} {bound if bound is not None else '-':>9}")
        if bound is not None and median > bound:
            over.append(name)
    if over:
        sys.exit(f"over the bound: {'; '.join(over)}")


if __name__ == "__main__":
    main()
