# The report is at home now: a step or a gate that failed ends the bake here.
[ -z "$failed" ] || exit 1
exit "$(cat "$home/gate.code")"
