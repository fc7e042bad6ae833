#!/usr/bin/env bats

@test "myapp runs and starts at boot" {
  systemctl is-active myapp
  systemctl is-enabled myapp
}

@test "myapp answers on port 8080" {
  run curl --silent --fail --max-time 5 --retry 5 --retry-connrefused --retry-delay 1 http://127.0.0.1:8080/
  [ "$status" -eq 0 ]
  [ "$output" = myapp ]
}

@test "myapp does not run as root" {
  [ "$(stat -c %U "/proc/$(systemctl show -p MainPID --value myapp)")" = myapp ]
}

@test "no unit failed" {
  run systemctl --failed --no-legend --plain
  [ -z "$output" ]
}
