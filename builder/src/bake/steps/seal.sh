# Takes away what belongs to this machine and to the bake, then lets the agent look again.
phase seal
cd /
rm -rf "$home" /tmp/kiln-report.tar.gz /etc/kiln/agent.d/90-bake.yaml
exec kiln-agent seal --verify
