#!/usr/bin/env python3
"""Bakes six images through a real Buildbot: a master and two workers that are killed in the middle.

    tests/buildbot.py      (as root, with a lab that is up and has a golden image; see tests/e2e.sh)

The master runs packaging/pipelines/master.cfg as it is. One worker is killed with -9 and its bakes live on,
the other with everything it has started. Buildbot tries their builds again. When all builds have ended, the
last line on standard output is a JSON object with what there is to be checked: the images, how often each
build was tried, and the security groups that packer has made. Exit 77: PyPI cannot be reached.
"""
import bz2
import json
import os
import re
import secrets
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import zlib

TOP = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
KILN = os.path.abspath(os.environ.get("KILN", os.path.join(TOP, "target/debug/kiln")))
REQUIREMENTS = os.path.join(TOP, "packaging/dev/buildbot-requirements.txt")
VENV = os.path.join(TOP, "target/e2e/buildbot")
CANNOT_REACH = 77
# Far above what it takes: a slow day is no failure.
PATIENCE = 180
WORKERS = ["one", "two"]
# Results of a build in Buildbot's words.
SUCCESS, RETRY = 0, 5

BEGAN = time.monotonic()


def say(text):
    print(f"{time.monotonic() - BEGAN:6.1f} s  {text}", file=sys.stderr, flush=True)


def environment():
    """Buildbot of this version in an environment of its own, made once."""
    stamp = os.path.join(VENV, "requirements.txt")
    with open(REQUIREMENTS, encoding="utf-8") as file:
        wanted = file.read()
    if os.path.exists(stamp) and open(stamp, encoding="utf-8").read() == wanted:
        return
    say("installing Buildbot from PyPI")
    shutil.rmtree(VENV, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", VENV], check=True)
    pip = [f"{VENV}/bin/pip", "--disable-pip-version-check", "install", "--quiet", "--no-compile", "-r", REQUIREMENTS]
    ran = subprocess.run(pip, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if ran.returncode != 0:
        print(ran.stdout[-2000:], file=sys.stderr)
        index = subprocess.run([f"{VENV}/bin/pip", "config", "get", "global.index-url"], capture_output=True, text=True)
        address = os.environ.get("PIP_INDEX_URL") or index.stdout.strip() or "https://pypi.org/simple"
        try:
            urllib.request.urlopen(address.rstrip("/") + "/buildbot/", timeout=20).close()
        except urllib.error.HTTPError:
            pass
        except OSError as error:
            print(f"PyPI cannot be reached: {error}", file=sys.stderr)
            sys.exit(CANNOT_REACH)
        sys.exit("pip could not install Buildbot; its last lines are above")
    with open(stamp, "w", encoding="utf-8") as file:
        file.write(wanted)


class Processes:
    """What runs, by parent: looked up in /proc, as nobody else knows whose child a killed one's child was."""

    def __init__(self):
        self.parents = {}
        for name in filter(str.isdigit, os.listdir("/proc")):
            try:
                with open(f"/proc/{name}/stat", encoding="utf-8", errors="replace") as file:
                    _, rest = file.read().rsplit(")", 1)
            except OSError:
                continue
            state, parent = rest.split()[:2]
            if state != "Z":
                self.parents[int(name)] = int(parent)

    def below(self, pid):
        """Every process that this one has started, and what these have."""
        found = [child for child, parent in self.parents.items() if parent == pid]
        return found + [deeper for child in found for deeper in self.below(child)]

    def within(self, folder):
        """Those that work in this folder or below it."""
        def cwd(pid):
            try:
                return os.readlink(f"/proc/{pid}/cwd")
            except OSError:
                return ""
        return [pid for pid in self.parents if (cwd(pid) + "/").startswith(folder + "/")]


def is_baking(pid):
    """Whether this is a packer that has an instance."""
    try:
        with open(f"/proc/{pid}/comm", encoding="utf-8") as comm:
            if comm.read().strip() != "packer":
                return False
        with open(f"/proc/{pid}/cwd/packer.out", encoding="utf-8", errors="replace") as said:
            return "Instance ID" in said.read()
    except OSError:
        return False


class Farm:
    """A master with its workers in one folder."""

    def __init__(self, folder):
        self.folder = folder
        run = secrets.token_hex(2)
        self.images = [f"bb{run}-{letter}" for letter in "abcdef"]
        self.passwords = {name: secrets.token_hex(16) for name in [*WORKERS, "hook"]}
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.running = {}
        self.groups = set()

    def path(self, *names):
        return os.path.join(self.folder, *names)

    def write(self, name, text, mode=0o644):
        os.makedirs(os.path.dirname(self.path(name)), exist_ok=True)
        with open(os.open(self.path(name), os.O_WRONLY | os.O_CREAT, mode), "w", encoding="utf-8") as file:
            file.write(text)

    def run(self, *command, **more):
        ran = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60, **more)
        if ran.returncode != 0:
            sys.exit(f"{' '.join(command[:3])} failed with exit code {ran.returncode}: {ran.stdout[-2000:]}")
        return ran.stdout

    def repository(self):
        base = '{ami: {owners: [self], name: "golden-12*"}}'
        text = "defaults: {target: lab, owner: sre, environment: test, ssh_username: admin, prove: false}\nimages:\n"
        for name in self.images:
            text += f"  {name}: {{layer: app, from: {base}, tests: [ok.bats]}}\n"
        self.write("project/kiln.yaml", text + "targets:\n  lab: {kind: amazon-ebs, endpoint: lab}\n")
        self.write("project/ok.bats", '@test "there is a root" { [ -d / ]; }\n')
        git = ["git", "-C", self.path("project"), "-c", "user.name=test", "-c", "user.email=test@example.com"]
        self.run("git", "init", "--quiet", "--initial-branch", "main", self.path("project"))
        self.run(*git, "add", ".")
        self.run(*git, "commit", "--quiet", "--message", "six images")
        return self.run(*git, "rev-parse", "HEAD").strip()

    def start(self, name, program, env=None):
        log = open(self.path(f"{name}.log"), "a", encoding="utf-8")
        command = [f"{VENV}/bin/{program}", "start", "--nodaemon", self.path(name)]
        self.running[name] = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env={**os.environ, **(env or {})}
        )

    def master(self):
        self.run(f"{VENV}/bin/buildbot", "create-master", "--relocatable", self.path("master"))
        shutil.copy(os.path.join(TOP, "packaging/pipelines/master.cfg"), self.path("master"))
        pairs = "".join(f"{name} {self.passwords[name]}\n" for name in WORKERS)
        self.write("master/workers", pairs, 0o600)
        self.write("master/hook", f"hook {self.passwords['hook']}\n", 0o600)
        env = {"KILN": KILN, "KILN_PROJECT": self.path("project"), "KILN_PORT": str(self.port)}
        self.start("master", "buildbot", {**env, "KILN_POLL": "0", "KILN_QUIET": "0", "KILN_PROMOTE": ""})

    def worker(self, name):
        if not os.path.exists(self.path(name)):
            where = f"127.0.0.1:{self.port}"
            program = f"{VENV}/bin/buildbot-worker"
            self.run(program, "create-worker", self.path(name), where, name, self.passwords[name])
        self.start(name, "buildbot-worker")

    def until(self, what, look):
        """Looks again and again until there is an answer."""
        end = time.monotonic() + PATIENCE
        while not (answer := look()):
            for name, process in self.running.items():
                if process.poll() is not None:
                    self.fail(f"{name} ended with {process.returncode}")
            if time.monotonic() > end:
                self.fail(f"after {PATIENCE} s: {what} has not come true")
            time.sleep(0.2)
        return answer

    def fail(self, why):
        for name in ["master", *WORKERS]:
            path = self.path(name, "twistd.log")
            if os.path.exists(path):
                print(f"== {name}\n" + "".join(open(path, errors="replace").readlines()[-15:]), file=sys.stderr)
        for log in self.logs():
            print(log, file=sys.stderr)
        sys.exit(why)

    def ask(self, query):
        try:
            with sqlite3.connect(f"file:{self.path('master/state.sqlite')}?mode=ro", uri=True, timeout=5) as db:
                return db.execute(query).fetchall()
        except sqlite3.OperationalError:
            # Being made, or written.
            return []

    def logs(self):
        """The end of what kiln said in each build."""
        read = {0: bytes, 1: zlib.decompress, 2: bz2.decompress}
        rows = self.ask(
            "SELECT steps.buildid, content, compressed FROM logchunks JOIN logs ON logs.id = logid"
            " JOIN steps ON steps.id = stepid WHERE steps.name = 'kiln'"
        )
        return [f"build {build}: {read[form](text).decode(errors='replace')[-1500:]}" for build, text, form in rows]

    def builds(self):
        """Each image with the results of its builds, None for one that runs."""
        found = {name: [] for name in self.images}
        rows = self.ask("SELECT builders.name, results FROM builds JOIN builders ON builders.id = builderid")
        for name, results in rows:
            found[name].append(results)
        return found

    def collect_groups(self):
        for root, _, files in os.walk(self.folder):
            if "packer.out" in files:
                try:
                    with open(os.path.join(root, "packer.out"), encoding="utf-8", errors="replace") as said:
                        self.groups.update(re.findall(r"security group for this instance: (\S+)", said.read()))
                except OSError:
                    pass

    def baking(self, name):
        """Whether a worker is in the middle of a bake."""
        self.collect_groups()
        return any(is_baking(pid) for pid in Processes().below(self.running[name].pid))

    def kill(self, name, also=()):
        process = self.running.pop(name)
        process.kill()
        for pid in also:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        process.wait()

    def ended(self):
        self.collect_groups()
        builds = self.builds()
        for name, results in builds.items():
            if any(result not in (None, SUCCESS, RETRY) for result in results):
                self.fail(f"a build of {name} ended with {results}")
        return all(results and results[-1] == SUCCESS and None not in results for results in builds.values())

    def stop(self):
        for process in self.running.values():
            process.terminate()
        for process in self.running.values():
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()


def main():
    # What is imported is compiled once, and not at each of seven starts.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    environment()
    folder = os.path.realpath(tempfile.mkdtemp(prefix="kiln-buildbot-"))
    farm = Farm(folder)
    try:
        revision = farm.repository()
        farm.master()
        farm.until("the master", lambda: farm.ask("SELECT 1 FROM builders") and "Starting BuildMaster" in open(
            farm.path("master/twistd.log"), encoding="utf-8", errors="replace").read())
        for name in WORKERS:
            farm.worker(name)
        attached = "SELECT count(*) FROM connected_workers"
        farm.until("two workers", lambda: farm.ask(attached) == [(2,)])
        say("a master and two workers are there; a commit is reported")
        farm.run(
            f"{VENV}/bin/buildbot", "sendchange", "--master", f"127.0.0.1:{farm.port}", "--auth",
            f"hook:{farm.passwords['hook']}", "--branch", "main", "--revision", revision, "--who", "test",
            "--repository", farm.path("project"), "--vc", "git", "kiln.yaml",
        )
        farm.until("a bake of worker one", lambda: farm.baking("one"))
        say("worker one is killed, its bakes live on")
        farm.kill("one")
        farm.worker("one")
        farm.until("a bake of worker two", lambda: farm.baking("two"))
        say("worker two is killed with all it has started")
        farm.kill("two", Processes().below(farm.running["two"].pid))
        farm.until("the end of every build", farm.ended)
        # Of the ones that lived on, too.
        farm.until("the end of every bake", lambda: not [
            pid for pid in Processes().within(folder) if pid not in {process.pid for process in farm.running.values()}
        ])
        say("all builds have ended")
        tries = {name: len(results) for name, results in farm.builds().items()}
        lost = dict(farm.ask("SELECT workers.name, count(*) FROM builds JOIN workers ON workers.id = workerid"
                             f" WHERE results = {RETRY} GROUP BY workers.name"))
        print(json.dumps({"tries": tries, "lost": lost, "groups": sorted(farm.groups)}))
    finally:
        farm.stop()
        if os.environ.get("KILN_KEEP"):
            say(f"{folder} is kept")
        else:
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
