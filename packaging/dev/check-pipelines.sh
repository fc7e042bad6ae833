#!/bin/bash
# Checks the pipelines that people copy with the schedulers' own tools, as far as they can be had here.
# What it cannot get it names, and that is no failure; tests/buildbot.py runs master.cfg for real.
#
#     packaging/dev/check-pipelines.sh
set -euo pipefail
cd "$(dirname "$0")/../.."

cache=$PWD/target/e2e/pipelines
mkdir -p "$cache"

echo "== jenkins-jobs.yaml"
if [ -x "$cache/venv/bin/jenkins-jobs" ] \
    || { python3 -m venv "$cache/venv" && "$cache/venv/bin/pip" install --quiet jenkins-job-builder==6.5.0; }; then
    jobs=$("$cache/venv/bin/jenkins-jobs" --ignore-cache test packaging/pipelines/jenkins-jobs.yaml 2>/dev/null)
    for job in golden myapp; do
        grep -q "Bakes $job if it is out of date" <<<"$jobs" || { echo "there is no job kiln-$job" >&2; exit 1; }
    done
    "$cache/venv/bin/python" -c 'import sys, yaml; yaml.safe_load(open(sys.argv[1]))' packaging/pipelines/github-actions.yml
else
    echo "NOT CHECKED: PyPI has no jenkins-job-builder for this machine"
fi

echo "== Jenkinsfile"
if command -v npm >/dev/null && command -v java >/dev/null; then
    [ -x "$cache/node_modules/.bin/npm-groovy-lint" ] || npm install --silent --prefix "$cache" npm-groovy-lint@18.0.0
    "$cache/node_modules/.bin/npm-groovy-lint" --noserver --failon warning packaging/pipelines/Jenkinsfile
else
    echo "NOT CHECKED: npm-groovy-lint needs npm and java"
fi

echo "== github-actions.yml"
if command -v actionlint >/dev/null; then
    labels=$cache/actionlint.yaml
    printf 'self-hosted-runner:\n  labels: [kiln]\n' >"$labels"
    actionlint -config-file "$labels" packaging/pipelines/github-actions.yml
else
    echo "NOT CHECKED: actionlint is not on the path"
fi
