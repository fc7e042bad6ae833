# Starts the agent where it is new, lets it judge the machine, and packs its report.
if [ -z "$failed" ]; then
    phase gate
    if [ -e "$home/fresh" ]; then
        systemctl daemon-reload
        # Without waiting: the final stage waits for the gate.
        systemctl start --no-block kiln.target
    fi
    set -- --timeout "$KILN_GATE_TIMEOUT" --report "$home/report"
    if [ -e "$home/tests" ]; then set -- "$@" --tests "$home/tests"; fi
    # What the agent logs meanwhile, for whoever looks on.
    journalctl --follow --lines=0 --output=cat --unit='kiln-*' &
    log=$!
    code=0
    kiln-agent gate "$@" || code=$?
    kill "$log" 2>/dev/null || true
    echo "$code" >"$home/gate.code"
fi

mkdir -p "$home/report"
# The gate collects these itself; without a gate they tell how far the machine came.
[ -e "$home/report/status.json" ] || cp /run/kiln/status.json "$home/report/" 2>/dev/null || true
[ -e "$home/report/journal.txt" ] || journalctl -b --no-pager -o short-precise -n 5000 >"$home/report/journal.txt" || true
# What is installed, for the bill of materials; a system has one of the two or none.
cp /etc/os-release "$home/report/os-release" 2>/dev/null || true
{
    if command -v dpkg-query >/dev/null; then
        dpkg-query -W -f 'deb\t${db:Status-Status}\t${Package}\t${Version}\t${Architecture}\t${Maintainer}\n'
    fi
    if command -v rpm >/dev/null; then
        rpm -qa --qf 'rpm\tinstalled\t%{NAME}\t%{EPOCHNUM}:%{VERSION}-%{RELEASE}\t%{ARCH}\t%{VENDOR}\n'
    fi
} >"$home/report/packages.tsv" || true
umask 077
# In this format the times of files keep their fractions of a second.
tar --format=posix -czf /tmp/kiln-report.tar.gz -C "$home/report" .
chown "${SUDO_UID:-0}" /tmp/kiln-report.tar.gz
