#!/bin/sh
echo first > /order