#!/bin/sh
echo setup >> /order
