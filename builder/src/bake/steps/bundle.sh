# Makes the folder that certificate, key and bundle come to: after the seal, which would take it away, and for
# whoever logs in alone. Packer bundles everything but what is in it.
install -d -m 0700 -o "${SUDO_USER:-root}" /var/tmp/kiln-bundle
