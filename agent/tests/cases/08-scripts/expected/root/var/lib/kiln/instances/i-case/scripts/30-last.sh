#!/bin/sh
echo "$INSTANCE_ID $(cat /order)" > /last