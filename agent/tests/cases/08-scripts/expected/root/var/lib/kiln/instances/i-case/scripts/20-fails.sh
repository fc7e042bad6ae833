#!/bin/sh
echo "cannot reach the mirror" >&2
exit 7