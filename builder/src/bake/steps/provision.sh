# Runs the scripts of kiln.yaml in their order.
[ -z "$failed" ] || exit 0
export KILN_IMAGE KILN_ROLE KILN_LAYER
# A timer of the base may install something after its boot: apt waits for it, whoever calls apt.
echo 'DPkg::Lock::Timeout "600";' >"$home/apt.conf"
export APT_CONFIG="$home/apt.conf"
while IFS=$tab read -r script name <&3; do
    phase provision "$name"
    code=0
    (cd "$home" && exec "provision/$script") </dev/null 3<&- || code=$?
    [ "$code" = 0 ] || fail "the script $name failed with exit code $code"
done 3<"$home/provision.list"

# Told now, and not when all the rest is done.
if [ "$KILN_STORE" = instance-store ]; then
    for tool in ec2-bundle-vol ec2-upload-bundle; do
        # As packer will call it: by root's own path.
        sh -lc "command -v $tool" >/dev/null ||
            fail "an image on an instance store is bundled by $tool, which is not there: install the EC2 AMI tools in a script of \`provision\`"
    done
fi
