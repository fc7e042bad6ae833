#!/bin/bash
# Installs the agent's packages into a stock Debian and takes them out again, and looks at the tree.
#
#     packaging/dev/check-package.sh KILN-AGENT.deb FOUNDATION        (as root)
#
# kiln-cloud-init of the same version lies beside KILN-AGENT.deb, as packaging/dev/agent-deb.sh leaves it.
# FOUNDATION is the tree of packaging/demo/foundation.sh; it is the lower layer of an overlay and is
# not changed. Exit 0 when every check holds; the last line says how many did and did not.
set -uo pipefail

[ $# = 2 ] || { echo "usage: check-package.sh KILN-AGENT.deb FOUNDATION" >&2; exit 64; }
[ "$(id -u)" = 0 ] || { echo "check-package.sh needs root, for overlays and chroot; run it with sudo" >&2; exit 1; }
deb=$(realpath "$1") foundation=$(realpath "$2")
[ -f "$deb" ] || { echo "$1 is no file: make it with \`kiln deb\`" >&2; exit 1; }
version=$(dpkg-deb -f "$deb" Version)
drop_in=$(dirname "$deb")/kiln-cloud-init_${version}_all.deb
[ -f "$drop_in" ] || { echo "$drop_in is not there: make it with \`kiln deb\`" >&2; exit 1; }
[ -d "$foundation/etc" ] || { echo "$2 is no root tree: make it with packaging/demo/foundation.sh" >&2; exit 1; }

# A mount namespace of its own: whatever happens here, no mount is left behind.
if [ -z "${KILN_CHECK_INSIDE:-}" ]; then
    export KILN_CHECK_INSIDE=1
    exec unshare --mount --propagation private --pid --fork --kill-child "$0" "$deb" "$foundation"
fi

work=$(mktemp -d)
trap 'cd /; umount -l "$work" && rmdir "$work"' EXIT
mount -t tmpfs -o mode=755 kiln-check "$work"
root=$work/root
passed=0 failed=0

# check WHAT COMMAND...: counts whether the command succeeds.
check() {
    local what=$1
    shift
    if "$@" >"$work/said" 2>&1; then
        passed=$((passed + 1))
        echo "ok      $what"
    else
        failed=$((failed + 1))
        echo "FAILED  $what"
        sed 's/^/        /' "$work/said"
    fi
}

refuses() { ! "$@"; }

# fresh: the stock tree again, with this machine's way to the package mirrors.
fresh() {
    if mountpoint -q "$root"; then umount -l "$root"; fi
    rm -rf "$work/upper" "$work/over" && mkdir -p "$work/upper" "$work/over" "$root"
    mount -t overlay overlay -o "lowerdir=$foundation,upperdir=$work/upper,workdir=$work/over" "$root"
    mount -t proc proc "$root/proc"
    mount --rbind /dev "$root/dev"
    mount -t tmpfs run "$root/run"
    cat /etc/resolv.conf >"$root/etc/resolv.conf"
    # Nothing may start: the tree is not running.
    printf '#!/bin/sh\nexit 101\n' >"$root/usr/sbin/policy-rc.d" && chmod 755 "$root/usr/sbin/policy-rc.d"
    cp "$deb" "$root/tmp/kiln-agent.deb"
    cp "$drop_in" "$root/tmp/kiln-cloud-init.deb"
}

inside() { chroot "$root" env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8 DEBIAN_FRONTEND=noninteractive ${proxy:+"http_proxy=$proxy"} "$@" </dev/null; }
apt() { inside apt-get -q -y -o Dpkg::Options::=--force-unsafe-io "$@"; }
# shellcheck disable=SC2016 # dpkg-query expands these
state() { inside dpkg-query -W -f '${db:Status-Abbrev}' "$1" 2>/dev/null || true; }
installed() { [[ $(state "$1") = ii* ]]; }
# listing: every path with kind, mode, owner and content, but for logs and caches of apt and dpkg.
listing() {
    (cd "$root" && find . -xdev \( -path ./var/lib/dpkg -o -path ./var/log -o -path ./var/cache -o -path ./var/lib/apt -o -path ./tmp \) -prune -o \
        -printf '%p %y %m %u:%g %l\n' | sort; find etc usr/lib/systemd lib/systemd -type f -print0 2>/dev/null | sort -z | xargs -0 sha256sum)
}
unchanged() { diff "$work/before" <(listing); }

eval "$(apt-config shell proxy Acquire::http::Proxy)"

dpkg-deb --extract "$deb" "$work/files" && dpkg-deb --control "$deb" "$work/control"
mkdir "$work/empty" && cp "$work/files/usr/bin/kiln-agent" "$work/empty/"
check "the program is static" test -z "$(readelf --wide --program-headers --dynamic "$work/empty/kiln-agent" | grep -E 'INTERP|NEEDED')"
check "the program is at most 9 MB" test "$(stat -c %s "$work/empty/kiln-agent")" -le 9000000
check "the program runs in an empty root" chroot "$work/empty" /kiln-agent --version
check "the package depends on nothing" test -z "$(dpkg-deb -f "$deb" Depends Pre-Depends)"

echo "== in place of cloud-init"
fresh
check "cloud-init is there before" installed cloud-init
check "apt installs the package" apt install --no-install-recommends /tmp/kiln-agent.deb
check "the agent is there" installed kiln-agent
check "cloud-init is gone" refuses installed cloud-init
check "kiln.target is enabled" inside systemctl is-enabled kiln.target
check "the units are sound" inside systemd-analyze --man=no verify kiln.target kiln-local.service kiln-init.service kiln-final.service kiln-route53.service
check "the agent's settings are a conffile" grep -qx /etc/kiln/agent.yaml "$work/control/conffiles"
check "apt brings cloud-init back" bash -c "$(declare -f inside apt); root='$root' proxy='${proxy:-}'; apt update && apt install --no-install-recommends cloud-init"
check "the agent is gone then" refuses installed kiln-agent
check "a removed agent keeps its settings" test -f "$root/etc/kiln/agent.yaml"

echo "== installed and purged"
fresh
apt purge cloud-init >"$work/said" 2>&1
apt autoremove >"$work/said" 2>&1
listing >"$work/before"
check "apt installs the package" apt install /tmp/kiln-agent.deb
check "its manual is there" test -f "$root/usr/share/man/man1/kiln-agent.1.gz"
check "bash completes it" test -f "$root/usr/share/bash-completion/completions/kiln-agent"
mkdir -p "$root/var/lib/kiln/instances/i-1" "$root/var/lib/kiln/data"
echo '{}' >"$root/var/lib/kiln/instances/i-1/status.json"
echo 'role: jetty' >"$root/etc/kiln/agent.d/10-role.yaml"
echo '# mine' >>"$root/etc/kiln/agent.yaml"
check "installing it again keeps a changed setting" apt install --reinstall /tmp/kiln-agent.deb
check "the changed setting is still there" grep -q '^# mine' "$root/etc/kiln/agent.yaml"
check "apt removes it" apt remove kiln-agent
check "what it knew of the instance stays" test -f "$root/var/lib/kiln/instances/i-1/status.json"
check "kiln.target is not enabled any more" refuses inside systemctl is-enabled kiln.target
check "apt purges it" apt purge kiln-agent
check "a purge leaves nothing" unchanged

echo "== as cloud-init"
# says PATTERN COMMAND...: what it prints, as far as a pattern of grep goes; its exit code does not count.
says() {
    local pattern=$1
    shift
    { "$@" || true; } | grep -e "$pattern"
}
fresh
sed -i '1a # mine' "$root/etc/cloud/cloud.cfg"
# Over the foundation's own, which is for EC2.
echo 'datasource_list: [NoCloud]' >"$root/etc/cloud/cloud.cfg.d/95_check.cfg"
settings() { (cd "$root/etc/cloud" && find . -type f -print0 | sort -z | xargs -0 sha256sum); }
settings >"$work/settings"
mkdir -p "$root/var/lib/cloud/seed/nocloud" "$root/var/lib/cloud/scripts/per-boot"
echo 'instance-id: i-check' >"$root/var/lib/cloud/seed/nocloud/meta-data"
printf '#cloud-config\nwrite_files:\n- {path: /root/made, content: hunter2}\n' >"$root/var/lib/cloud/seed/nocloud/user-data"
check "apt installs both packages over cloud-init" apt install --no-install-recommends /tmp/kiln-agent.deb /tmp/kiln-cloud-init.deb
check "cloud-init is gone" refuses installed cloud-init
check "who depends on cloud-init is content" inside apt-get -q check
check "the version is the one that it provides" \
    test "$(inside cloud-init --version | sed 's/-kiln.*//')" = "/usr/bin/cloud-init $(dpkg-deb -f "$drop_in" Provides | sed 's/.*(= \(.*\)+kiln)/\1/')"
check "its units are sound" inside systemd-analyze --man=no verify cloud-init.target cloud-config.target cloud-config.service cloud-final.service
check "cloud-init.target is kiln.target" test "$(readlink -f "$root/lib/systemd/system/cloud-init.target")" = "$(readlink -f "$root/lib/systemd/system/kiln.target")"
check "none of its units is masked" refuses says masked inside systemctl is-enabled cloud-init-local.service cloud-init.service cloud-config.service cloud-final.service cloud-init.target
check "nothing has begun" says '^status: not started$' inside cloud-init status
# The agent's own way to a tree: it leaves the name and the console of this machine alone.
mount --bind /dev/null "$root/dev/console" 2>/dev/null || true
check "a boot ends well" "$work/files/usr/bin/kiln-agent" --root "$root" boot
check "a packer template waits for its end" inside cloud-init status --wait
check "its end is told in full" says '^extended_status: done$' inside cloud-init status --long
for path in run/cloud-init/result.json run/cloud-init/status.json var/lib/cloud/instance/boot-finished var/lib/cloud/data/instance-id; do
    check "$path is there" inside test -f "/$path"
done
check "the user-data is root's alone" refuses inside setpriv --reuid=65534 --regid=65534 --clear-groups cat /var/lib/cloud/instance/user-data.txt
check "others are not told the user-data" says redacted inside setpriv --reuid=65534 --regid=65534 --clear-groups cloud-init query userdata
check "others are told the status" inside setpriv --reuid=65534 --regid=65534 --clear-groups cloud-init status --wait
check "root is told the user-data" says hunter2 inside cloud-init query userdata
check "the cloud has its name" says '^nocloud$' inside cloud-id
check "the instance's own user-data is valid" inside cloud-init schema --system
check "the settings of the image count" says '/etc/cloud/cloud.cfg.d/95_check.cfg:1' inside kiln-agent plan
check "and its lists of modules are said not to" says 'cloud_final_modules: .*the order of the handlers is fixed' inside kiln-agent plan
check "what tools tail is there" says ' finished at .* Datasource DataSourceNoCloud' cat "$root/var/log/cloud-init-output.log"
check "and what the handlers did" says ' write_files\[INFO\]: ok' cat "$root/var/log/cloud-init.log"
# shellcheck disable=SC2016 # the shell inside expands it
per='for i in 1 2; do cloud-init-per "$1" a-mark sh -c "echo \$0 >>/root/per; exit 4" "$1"; echo $? >>/root/per; done'
for often in once instance always; do inside sh -c "$per" sh "$often"; done
check "cloud-init-per runs what is due and ends as it does" test "$(tr '\n' ' ' <"$root/root/per")" = "once 4 0 instance 4 0 always 4 always 4 "
check "its marks are those of cloud-init" inside test -f /var/lib/cloud/sem/bootper.a_mark.once -a -f /var/lib/cloud/instance/sem/bootper.a_mark.instance
check "a frequency that is none is refused" refuses inside cloud-init-per never a true
# shellcheck disable=SC2016 # the shell inside expands it
check "its logs are collected for root alone" inside sh -c 'cd /root && cloud-init collect-logs && test "$(stat -c %a cloud-init.tar.gz)" = 600'
check "no secret is in them" refuses says hunter2 tar -xzOf "$root/root/cloud-init.tar.gz"
check "apt brings cloud-init back" bash -c "$(declare -f inside apt); root='$root' proxy='${proxy:-}'; apt update && apt install --no-install-recommends cloud-init"
check "the agent is gone then" refuses installed kiln-agent
check "kiln-cloud-init is gone then" refuses installed kiln-cloud-init
check "cloud-init's settings are as they were" diff "$work/settings" <(settings)
check "cloud-init is enabled again" inside systemctl is-enabled cloud-init-local.service cloud-final.service
check "apt purges what is left of Kiln" apt purge kiln-cloud-init kiln-agent
check "cloud-init's state is left to it" test -f "$root/var/lib/cloud/seed/nocloud/user-data" -a -d "$root/var/lib/cloud/instances/i-check"
check "cloud-init answers itself" says '^/usr/bin/cloud-init [0-9.]*$' inside cloud-init --version

echo "== as cloud-init, installed and purged"
fresh
apt purge cloud-init >"$work/said" 2>&1
apt autoremove >"$work/said" 2>&1
listing >"$work/before"
check "apt installs both packages" apt install --no-install-recommends /tmp/kiln-agent.deb /tmp/kiln-cloud-init.deb
check "its manual is there" test -f "$root/usr/share/man/man1/cloud-init.1.gz"
mkdir -p "$root/var/lib/cloud/data" "$root/var/lib/cloud/instances/i-1"
echo i-1 >"$root/var/lib/cloud/data/instance-id"
inside cloud-init-per once check true
touch "$root/var/log/cloud-init-output.log"
check "apt purges them" apt purge kiln-cloud-init kiln-agent
check "a purge leaves nothing" unchanged
check "and no log" refuses ls "$root/var/log/cloud-init-output.log"

echo
echo "package: $passed passed, $failed failed"
[ "$failed" = 0 ]
