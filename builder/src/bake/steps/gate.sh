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
    code=0
    kiln-agent gate "$@" || code=$?
    echo "$code" >"$home/gate.code"
fi

mkdir -p "$home/report"
# The gate collects these itself; without a gate they tell how far the machine came.
[ -e "$home/report/status.json" ] || cp /run/kiln/status.json "$home/report/" 2>/dev/null || true
[ -e "$home/report/journal.txt" ] || journalctl -b --no-pager -o short-precise -n 5000 >"$home/report/journal.txt" || true
umask 077
# In this format the times of files keep their fractions of a second.
tar --format=posix -czf /tmp/kiln-report.tar.gz -C "$home/report" .
chown "${SUDO_UID:-0}" /tmp/kiln-report.tar.gz
