#!/bin/sh
# What every image of the demo has: puppet, BATS, and a small web server.
set -eu
export DEBIAN_FRONTEND=noninteractive
# In the lab, package mirrors are reached through the lab's own proxy; the setting stays out of the image.
apt() { apt-get -q -o Acquire::http::Proxy=http://10.0.0.1:3128 -o Dpkg::Options::=--force-unsafe-io "$@"; }
apt update
apt install -y --no-install-recommends puppet-agent bats busybox curl
# The agent decides when puppet runs.
systemctl disable --now puppet.service 2>/dev/null || true
