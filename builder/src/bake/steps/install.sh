# Unpacks what was uploaded, installs the agent unless the base has this very version, puts the files in place.
rm -rf "$home"
mkdir -m 0755 "$home"
tar -xf /tmp/kiln-payload.tar -C "$home"
rm -f /tmp/kiln-payload.tar
. "$home/bake.env"

have=$(dpkg-query -W -f '${db:Status-Status} ${Version}' kiln-agent 2>/dev/null || true)
if [ -e "$home/kiln-agent.deb" ]; then
    want=$(dpkg-deb -f "$home/kiln-agent.deb" Version)
    if [ "$have" != "installed $want" ]; then
        phase install "kiln-agent $want"
        case $have in installed*) ;; *) touch "$home/fresh" ;; esac
        # The package takes the place of cloud-init, which must not be in the middle of something then.
        if command -v cloud-init >/dev/null; then
            timeout 300 cloud-init status --wait >/dev/null 2>&1 || true
        fi
        apt-get -q -y -o DPkg::Lock::Timeout=300 -o Dpkg::Options::=--force-confold \
            install --no-install-recommends --allow-downgrades "$home/kiln-agent.deb" ||
            fail "kiln-agent $want cannot be installed on the base"
    fi
else
    case $have in
    installed*) ;;
    *) fail "the base has no kiln-agent, and there is no package of it: name one with --agent-deb" ;;
    esac
fi

mkdir -p /etc/kiln/agent.d
cp "$home/50-image.yaml" /etc/kiln/agent.d/50-image.yaml
chmod 0644 /etc/kiln/agent.d/50-image.yaml
if [ -e "$home/90-bake.yaml" ]; then
    install -m 0600 "$home/90-bake.yaml" /etc/kiln/agent.d/90-bake.yaml
fi

while IFS=$tab read -r number destination <&3; do
    source=$home/files/$number
    if [ -d "$source" ]; then
        mkdir -p "$destination" && cp -R -P --preserve=mode,timestamps "$source/." "$destination/"
    else
        mkdir -p "${destination%/*}/" && cp -P --preserve=mode,timestamps "$source" "$destination"
    fi || fail "cannot put a file at $destination"
done 3<"$home/files.list"
