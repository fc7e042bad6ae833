#!/usr/bin/env python3
"""Compares kiln-agent with a corpus of user-data documents, and with what cloud-init did with them.

The corpus is a folder with `valid/` and `invalid/` (a document a file), `index.tsv` (what cloud-init's
schema says of each) and `effects/` (the files that a run of cloud-init left, for documents that are
safe in a throwaway root). Every valid document must validate without an error, every invalid one must
get a finding at the key that is wrong, and a run in a throwaway root must leave the same files, modes,
owners, contents, users and host name. What may differ stands in `conformance-differences.tsv` with its
reason: rules for kinds of differences, never for a document.
"""

import argparse
import collections
import csv
import fnmatch
import functools
import json
import os
import re
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

# What is the agent's own or the machine's, and no effect of a document.
OURS = ("var/lib/kiln", "run", "etc/kiln", "var/lib/cloud", "var/log", "var/cache", "tmp", "var/tmp", "proc", "sys", "dev")
# The image's own configuration of the machine on which the effects were recorded.
IMAGE = {
    "locale": "C.UTF-8",
    "default_user": {
        "name": "debian",
        "gecos": "Debian",
        "groups": ["adm", "audio", "cdrom", "dialout", "dip", "floppy", "netdev", "plugdev", "sudo", "video"],
        "shell": "/bin/bash",
        "lock_passwd": True,
        "sudo": ["ALL=(ALL) NOPASSWD:ALL"],
    },
}
LIMIT_S = 60


def run(command, **options):
    """A program's exit code and output; None as exit code where it hung."""
    try:
        done = subprocess.run(command, capture_output=True, timeout=LIMIT_S, check=False, **options)
    except subprocess.TimeoutExpired:
        return None, "", ""
    return done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")


def top_keys(note):
    """The top-level keys that a note of cloud-init's schema finds wrong."""
    keys = set()
    for part in re.split(r"; (?=[\w.-]*:)|; (?=\S+: )", note):
        path = part.split(":", 1)[0].strip()
        if path:
            keys.add(re.split(r"[.\[]", path)[0])
        else:
            keys.update(re.findall(r"'([\w-]+)'", part))
    return keys


def at_the_right_key(row, findings):
    """Whether a finding points at what cloud-init's schema objects to."""
    if not findings:
        return False
    if row["cloud_init_schema_verdict"] != "invalid-schema":
        return True
    wanted = {key.replace("-", "_") for key in top_keys(row["notes"])}
    found = {re.split(r"[.\[]", f.get("path") or "")[0].replace("-", "_") for f in findings}
    return bool(wanted & found) or not wanted


def validate(agent, corpus, rows, told, rules):
    """Every document through `validate`; what is told of those that came out wrong."""
    wrong = {"valid": [], "invalid": []}
    for row in rows:
        code, out, err = run([agent, "validate", "--format", "json", corpus / row["file"]])
        told["hangs"] += code is None
        told["panics"] += code == 101 or "panicked" in err
        try:
            findings = json.loads(out)["findings"]
        except (ValueError, KeyError):
            findings = []
        kind = row["file"].split("/")[0]
        if kind == "invalid":
            good = at_the_right_key(row, findings)
        else:
            errors = [("finding", f.get("path") or "", f["message"]) for f in findings if f["severity"] == "error"]
            good = code == 0 or bool(errors) and all(reason_for(error, rules) for error in errors)
        told[kind, good] += 1
        if not good:
            first = "; ".join(f"{f.get('path')}: {f['message']}" for f in findings[:2])
            wrong[kind].append(f"{row['file']}: {row['notes'][:90] or 'valid'} | {first[:160]}")
    return wrong


class Overlay:
    """A throwaway root over a tree."""

    def __init__(self, tree):
        self.tree = tree

    def __enter__(self):
        self.folder = Path(tempfile.mkdtemp(prefix="kiln-conformance-"))
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", self.folder], check=True)
        self.upper, self.root = self.folder / "upper", self.folder / "root"
        for folder in (self.upper, self.folder / "work", self.root):
            folder.mkdir()
        layers = f"lowerdir={self.tree},upperdir={self.upper},workdir={self.folder}/work"
        subprocess.run(["mount", "-t", "overlay", "overlay", "-o", layers, self.root], check=True)
        return self

    def __exit__(self, *_):
        subprocess.run(["umount", "-l", self.root], check=True)
        subprocess.run(["umount", "-l", self.folder], check=True)
        self.folder.rmdir()


def changed(overlay, tree):
    """What a run left, in the form of the corpus."""
    files = {}
    for folder, names, others in os.walk(overlay.upper):
        for name in names + others:
            path = Path(folder) / name
            inner = str(path.relative_to(overlay.upper))
            about = path.lstat()
            if stat.S_ISCHR(about.st_mode):
                files[inner] = {"deleted": True}
                continue
            entry = {"mode": f"{stat.S_IMODE(about.st_mode):o}", "uid": about.st_uid, "gid": about.st_gid}
            if stat.S_ISDIR(about.st_mode):
                # A folder that was there shows up whenever something in it changes.
                was = tree / inner
                same = was.is_dir() and (was.stat().st_mode, was.stat().st_uid, was.stat().st_gid) == (
                    about.st_mode, about.st_uid, about.st_gid)
                if same:
                    continue
                entry["dir"] = True
            elif stat.S_ISLNK(about.st_mode):
                entry["link"] = os.readlink(path)
            else:
                entry["content"] = path.read_bytes().decode(errors="replace")
            files[inner] = entry
    return files


def accounts(theirs, ours, path, base_of):
    """Differences in an account file: new and changed accounts, whatever else the trees have."""
    old, new = theirs.get(path, {}).get("content"), ours.get(path, {}).get("content")
    names = base_of("effects", path), base_of("tree", path)
    wanted = {n: l for n, l in by_name(old).items() if n not in names[0] or l != names[0][n]}
    found = {n: l for n, l in by_name(new).items() if n not in names[1] or l != names[1][n]}
    for name in sorted(wanted.keys() | found.keys()):
        was, is_now = wanted.get(name), found.get(name)
        if path == "etc/group":
            was, is_now = (members(line, name in names[0]) for line in (was, is_now))
        else:
            was, is_now = (without_system_ids(line) for line in (was, is_now))
        if was != is_now:
            yield ("account", f"{path}:{name}", f"{was} | {is_now}")


def is_system(number):
    """Whether the distribution gives such numbers, another one in another release."""
    return int(number) < 1000


def members(line, was_there):
    """Who is in a group, and its number if a user got it."""
    if line is None:
        return "" if was_there else None
    fields = line.split(":")
    people = ",".join(sorted(filter(None, fields[3].split(","))))
    return people if was_there else f"{'system' if is_system(fields[2]) else fields[2]}:{people}"


def without_system_ids(line):
    """A line of passwd, without the numbers of a system account."""
    if line is None:
        return None
    fields = line.split(":")
    return ":".join("system" if at in (2, 3) and is_system(field) else field for at, field in enumerate(fields))


def by_name(text):
    return {line.split(":")[0]: line for line in (text or "").splitlines() if line}


def password_state(text):
    """What the corpus tells of a shadow file: whether each account has a password."""
    states = {}
    for line in (text or "").splitlines():
        name, password = line.split(":")[:2]
        states[name] = "locked" if password[:1] in ("!", "*") else "empty" if not password else "set"
    return states


def without_writer(text):
    """The text without lines of comment that name who wrote it and when."""
    lines = text.splitlines()
    kept = [l for l in lines if not re.match(r"\s*(#|//).*(cloud-init|kiln-agent|by kiln|generated by)", l, re.IGNORECASE)]
    return "\n".join(kept).strip()


def meaning(path, text):
    """The text as far as it means something to who reads the file."""
    text = without_writer(text)
    if path.endswith("/authorized_keys"):
        # cloud-init keeps keys in a set: their order is of one run.
        return sorted(text.splitlines())
    if path == "etc/hosts":
        lines = (line.split("#")[0].split() for line in text.splitlines())
        return [list(dict.fromkeys(words)) for words in lines if words]
    return text


def holds(tree, path, wanted):
    """Whether the tree has a file just as it was recorded, so that a run need not touch it."""
    try:
        about = (tree / path).lstat()
        if not stat.S_ISREG(about.st_mode) or "content" not in wanted:
            return False
        content = (tree / path).read_bytes().decode(errors="replace")
    except OSError:
        return False
    found = (content, f"{stat.S_IMODE(about.st_mode):o}", about.st_uid, about.st_gid)
    return found == (wanted["content"], wanted.get("mode"), wanted["uid"], wanted["gid"])


def differences(theirs, ours, hostname, base_of, tree):
    """Each difference of the final states as (kind, path, what)."""
    for path in ("etc/passwd", "etc/group"):
        yield from accounts(theirs, ours, path, base_of)
    states = password_state(ours.get("etc/shadow", {}).get("content"))
    new_accounts = by_name(theirs.get("etc/passwd", {}).get("content")).keys() - base_of("effects", "etc/passwd").keys()
    for name, state in (theirs.get("etc/shadow", {}).get("users") or {}).items():
        state = state if state in ("locked", "empty") else "set"
        if (name in new_accounts or name in states) and states.get(name, "locked") != state:
            yield ("password", f"etc/shadow:{name}", f"{state} | {states.get(name)}")
    name = ours.get("etc/hostname", {}).get("content", "").strip()
    if name and hostname and name != hostname:
        yield ("hostname", "etc/hostname", f"{hostname} | {name}")
    skip = {"etc/passwd", "etc/group", "etc/shadow", "etc/gshadow", "etc/passwd-", "etc/group-", "etc/shadow-",
            "etc/gshadow-", "etc/subuid-", "etc/subgid-", "etc/.pwd.lock"}
    # The corpus leaves out the host keys, which are random.
    paths = [p for p in theirs.keys() | ours.keys() if p not in skip and not p.startswith("etc/ssh/ssh_host_")]
    for path in sorted(paths):
        if path.startswith(OURS) and path not in theirs:
            continue
        old, new = theirs.get(path), ours.get(path)
        if old is None:
            yield ("extra", path, json.dumps(new)[:200])
        elif new is None:
            # A folder of which the corpus tells since something in it changed.
            if not old.get("dir") and not holds(tree, path, old):
                yield ("missing", path, json.dumps(old)[:200])
        elif old.get("deleted") or new.get("deleted"):
            if old.get("deleted") != new.get("deleted"):
                yield ("deleted", path, f"{old.get('deleted')} | {new.get('deleted')}")
        else:
            if old.get("mode") != new["mode"]:
                yield ("mode", path, f"{old.get('mode')} | {new['mode']}")
            if (old["uid"], old["gid"]) != (new["uid"], new["gid"]):
                yield ("owner", path, f"{old['uid']}:{old['gid']} | {new['uid']}:{new['gid']}")
            if old.get("link") != new.get("link"):
                yield ("link", path, f"{old.get('link')} | {new.get('link')}")
            if "content" in old and meaning(path, old["content"]) != meaning(path, new.get("content", "")):
                yield ("content", path, f"{old['content'][:300]!r} | {new.get('content', '')[:300]!r}")


def boot(agent, tree, document, told):
    """Boots a document in a throwaway root and gives what it left."""
    with Overlay(tree) as overlay:
        seed = overlay.root / "var/lib/cloud/seed/nocloud"
        seed.mkdir(parents=True)
        (seed / "user-data").write_bytes(document.read_bytes())
        meta = {"instance-id": "i-0oracle0001", "local-hostname": "oracle-host", "public-keys": {"ops": KEY}}
        (seed / "meta-data").write_text(json.dumps(meta))
        (overlay.root / "etc/kiln").mkdir(exist_ok=True)
        (overlay.root / "etc/kiln/agent.yaml").write_text(json.dumps(IMAGE))
        code, _, err = run([agent, "--root", overlay.root, "boot"])
        told["hangs"] += code is None
        told["panics"] += code == 101 or "panicked" in err
        return changed(overlay, tree)


# The key that the recorded machine's metadata had; public.
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIBmSNoLzDS9YpZZlqsxKPWYJqUcxgY0XcpQkYd4nQXyz ops@example"


def read_rules(path):
    with path.open() as lines:
        rows = [line.rstrip("\n").split("\t") for line in lines if line.strip() and not line.startswith("#")]
    return [(kind.split(","), ended, pattern, re.compile(what), reason) for kind, ended, pattern, what, reason in rows]


def reason_for(difference, rules, ended=""):
    """Why a difference may be, if it may; `ended` is how cloud-init's run ended."""
    kind, path, what = difference
    for kinds, state, pattern, text, reason in rules:
        fits = kind in kinds and fnmatch.fnmatch(ended, state) and fnmatch.fnmatch(path, pattern)
        if fits and text.search(what):
            return reason
    return None


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--corpus", type=Path, required=True)
    arguments.add_argument("--agent", type=Path, required=True)
    arguments.add_argument("--tree", type=Path, required=True, help="a plain Debian 13")
    arguments.add_argument("--only", default="*", help="documents whose names fit")
    arguments.add_argument("--verbose", action="store_true", help="tell every difference")
    options = arguments.parse_args()
    if os.geteuid():
        sys.exit("conformance.py needs root: it mounts throwaway roots; run it with sudo")
    agent, tree, corpus = options.agent.absolute(), options.tree.absolute(), options.corpus.absolute()
    rules = read_rules(Path(__file__).parent / "conformance-differences.tsv")
    with (corpus / "index.tsv").open(newline="") as index:
        rows = [r for r in csv.DictReader(index, delimiter="\t", quoting=csv.QUOTE_NONE)
                if fnmatch.fnmatch(r["file"], options.only)]
    told = collections.Counter()
    wrong = validate(agent, corpus, rows, told, rules)

    recorded = [json.loads(path.read_text()) for path in sorted((corpus / "effects").glob("*.json"))]

    @functools.cache
    def base_of(whose, path):
        """The accounts that were there before: in every recording, or in the tree."""
        if whose == "tree":
            return by_name((tree / path).read_text())
        texts = [by_name(r["files"][path]["content"]) for r in recorded if path in r["files"]]
        plain = functools.reduce(lambda a, b: a & b, (set(text) for text in texts))
        common = {}
        for name in plain:
            lines = [text[name] for text in texts]
            fields = min(lines, key=len)
            common[name] = fields
        return common

    reasons, unnamed = collections.Counter(), collections.Counter()
    for record in recorded:
        if not fnmatch.fnmatch(record["document"], options.only):
            continue
        left = boot(agent, tree, corpus / record["document"], told)
        found = list(differences(record["files"], left, record["hostname"], base_of, tree))
        ended = " ".join([record["status"] or "no status", *record["warnings"]])
        why = [reason_for(difference, rules, ended) for difference in found]
        told["effects", "equal" if not found else "named" if all(why) else "different"] += 1
        reasons.update(set(filter(None, why)))
        for difference, reason in zip(found, why):
            if reason is None:
                unnamed[difference[:2]] += 1
                if options.verbose:
                    print(f"{record['document']}: {difference[0]} {difference[1]}: {difference[2]}")

    if options.verbose:
        for kind in wrong:
            print("\n".join(f"{kind}: {line}" for line in wrong[kind]))
        for (kind, path), count in unnamed.most_common(40):
            print(f"{count:4} documents differ without a reason: {kind} {path}")
    for reason, count in reasons.most_common():
        print(f"{count:4} documents differ since {reason}")
    report(told)


def report(told):
    runs = sum(count for key, count in told.items() if key[0] == "effects")
    equal, named = told["effects", "equal"], told["effects", "named"]
    lines = [
        ("valid documents without an error that has no reason", told["valid", True], told["valid", True] + told["valid", False], 1.0),
        ("invalid documents with a finding at the key", told["invalid", True], told["invalid", True] + told["invalid", False], 1.0),
        ("runs that left the same", equal, runs, 0.85),
        ("runs that left the same, or differ with a reason", equal + named, runs, 0.97),
    ]
    # A corpus without documents of a kind, or a pattern that fits nothing, proves nothing.
    failed = not any(of for _, _, of, _ in lines)
    for what, good, of, bound in lines:
        if of:
            print(f"{what:<54} {good:4} of {of:4}  {100 * good / of:6.1f} %")
            failed |= good < bound * of
    print(f"panics {told['panics']}, hangs {told['hangs']}")
    sys.exit(1 if failed or told["panics"] or told["hangs"] else 0)


if __name__ == "__main__":
    main()
