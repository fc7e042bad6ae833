#!/usr/bin/env bats
# Every check of kiln.bash once where it holds and once where it does not, against the real thing. Only
# systemd is played, because not every machine that runs this has it; the end-to-end cases have the real one.
# shellcheck disable=SC2016 # text that looks like code must stay text

load kiln

setup_file() {
    export PORTS="$BATS_FILE_TMPDIR/ports"
    mkfifo "$PORTS"
    # A web server, and a socket for datagrams, both on 127.0.0.1 alone.
    perl -MIO::Socket::INET -e '
        my $web = IO::Socket::INET->new(Listen => 9, LocalAddr => "127.0.0.1", Proto => "tcp") or die;
        my $datagrams = IO::Socket::INET->new(LocalAddr => "127.0.0.1", Proto => "udp") or die;
        open my $ports, ">", $ENV{PORTS}; print $ports $web->sockport, " ", $datagrams->sockport, "\n"; close $ports;
        while (my $client = $web->accept) {
            my $request = <$client>;
            while (<$client>) { last if /^\r?$/ }
            my $status = $request =~ m{/missing} ? "404 Not Found" : "200 OK";
            print $client "HTTP/1.0 $status\r\n\r\nWelcome to <the> shop\nof all things\n";
            close $client;
        }' 3>&- &
    export SERVER=$!
    read -r WEB DATAGRAMS <"$PORTS"
    export WEB DATAGRAMS

    # systemd, played: a unit that runs, one that failed, one that is static.
    mkdir "$BATS_FILE_TMPDIR/bin"
    cat >"$BATS_FILE_TMPDIR/bin/systemctl" <<'SYSTEMCTL'
#!/bin/bash
case "$*" in
    'show --property LoadState --value -- '*) case ${!#} in lost) echo not-found ;; *) echo loaded ;; esac ;;
    'show --property ActiveState --value -- web') echo active ;;
    'show --property ActiveState --value -- broken') echo failed ;;
    *' -- mute') exit 1 ;;
    'show --property ActiveState --value -- '*) echo inactive ;;
    'show --property SubState --value -- web') echo running ;;
    'show --property SubState --value -- broken') echo failed ;;
    'show --property SubState --value -- '*) echo dead ;;
    'show --property Result --value -- broken') echo exit-code ;;
    'show --property Result --value -- '*) echo success ;;
    'is-enabled -- web') echo enabled ;;
    'is-enabled -- broken') echo static ;;
    'is-enabled -- masked') echo masked && exit 1 ;;
    'is-enabled -- '*) exit 1 ;;
    'list-units --failed --no-legend --plain --full') cat "$FAILED_UNITS" ;;
    *) echo "unexpected: $*" >&2 && exit 9 ;;
esac
SYSTEMCTL
    chmod +x "$BATS_FILE_TMPDIR/bin/systemctl"
}

teardown_file() {
    kill "$SERVER"
}

setup() {
    export FAILED_UNITS="$BATS_TEST_TMPDIR/failed-units"
    file="$BATS_TEST_TMPDIR/it's a file"
    printf 'one\ntwo $(three)\n' >"$file"
    chmod 0640 "$file"
}

played_systemd() {
    PATH=$BATS_FILE_TMPDIR/bin:$PATH
}

# Calls a check as a test does, which ends at the first command that fails; `run` alone would go on.
call() {
    run "$BASH" -e -c 'source "$0"; "$@"' "$BATS_TEST_DIRNAME/kiln.bash" "$@"
}

# holds CHECK [ARGUMENT...]
holds() {
    call "$@"
    echo "$* returned $status: $output"
    [ "$status" -eq 0 ] && [ -z "$output" ]
}

# says LINE CHECK [ARGUMENT...]: the check does not hold and says this, where * stands for anything
says() {
    local line=$1
    shift
    call "$@"
    echo "$* returned $status: $output"
    # shellcheck disable=SC2053 # it is a pattern
    [ "$status" -eq 1 ] && [[ $output == $line ]]
}

@test "port_listens" {
    holds port_listens "$WEB"
    holds port_listens "$WEB" tcp
    holds port_listens "$WEB" tcp 127.0.0.1
    holds port_listens "$DATAGRAMS" udp 127.0.0.1
    says "expected port 1/tcp to listen, found nothing that listens there" port_listens 1
    says "expected port $WEB/tcp to listen on 0.0.0.0, found it bound to 127.0.0.1" port_listens "$WEB" tcp 0.0.0.0
    says "expected port $WEB/udp to listen, found nothing that listens there" port_listens "$WEB" udp
    PATH=/nowhere says "expected port 1/tcp to listen, found no ss on the machine*" port_listens 1
}

@test "http_answers" {
    holds http_answers "http://127.0.0.1:$WEB/"
    holds http_answers "http://127.0.0.1:$WEB/missing" 404
    holds http_answers "http://127.0.0.1:$WEB/" 200 $'<the> shop\nof all'
    says "expected status 200 of http://127.0.0.1:$WEB/missing, found 404" http_answers "http://127.0.0.1:$WEB/missing"
    says "expected 'Goodbye' in the answer of http://127.0.0.1:$WEB/, found 'Welcome to <the> shop of all things '" \
        http_answers "http://127.0.0.1:$WEB/" 200 Goodbye
    says "expected status 200 of http://127.0.0.1:1/, found no answer: curl: (7) *[^0]" http_answers http://127.0.0.1:1/
    says "expected status 200 of --help, found no answer: curl: *" http_answers --help
}

@test "service_active and service_inactive" {
    played_systemd
    holds service_active web
    holds service_inactive broken
    holds service_inactive lost
    says "expected broken to be active, found it failed (exit-code)" service_active broken
    says "expected idle to be active, found it inactive (dead)" service_active idle
    says "expected lost to be active, found no such unit" service_active lost
    says "expected mute to be active, found that systemctl does not answer" service_active mute
    says "expected web to be inactive, found it active (running)" service_inactive web
}

@test "service_enabled and service_disabled" {
    played_systemd
    holds service_enabled web
    holds service_disabled broken
    holds service_disabled lost
    says "expected broken to be enabled, found static" service_enabled broken
    says "expected masked to be enabled, found masked" service_enabled masked
    says "expected lost to be enabled, found no such unit" service_enabled lost
    says "expected web to be disabled, found enabled" service_disabled web
}

@test "no_failed_units" {
    played_systemd
    : >"$FAILED_UNITS"
    holds no_failed_units
    printf 'broken.service loaded failed failed Broken\nworse.mount loaded failed failed Worse\n' >"$FAILED_UNITS"
    says "expected no failed unit, found broken.service worse.mount" no_failed_units
    rm "$FAILED_UNITS"
    says "expected no failed unit, found that systemctl does not answer: cat: *" no_failed_units
}

@test "package_installed and package_absent" {
    version=$(dpkg-query --show --showformat '${Version}' perl-base)
    holds package_installed perl-base
    holds package_installed perl-base "$version"
    holds package_installed perl-base '5.*'
    holds package_absent no-such-package
    says "expected package no-such-package to be installed, found that it is not" package_installed no-such-package
    says "expected package perl-base 4.* to be installed, found $version" package_installed perl-base '4.*'
    says "expected package perl-base not to be installed, found that it is" package_absent perl-base
}

@test "mounted" {
    holds mounted /proc
    holds mounted /proc proc
    holds mounted /proc '' rw
    says "expected /proc to be mounted as ext4, found proc" mounted /proc ext4
    says "expected /proc to be mounted with nosuch, found rw,*" mounted /proc proc rw nosuch
    says "expected $BATS_TEST_TMPDIR to be mounted, found nothing mounted there" mounted "$BATS_TEST_TMPDIR"
}

@test "file_exists and file_absent" {
    ln -s nowhere "$BATS_TEST_TMPDIR/link"
    holds file_exists "$file"
    holds file_exists /
    holds file_absent "$file.not"
    says "expected $file.not to exist, found nothing there" file_exists "$file.not"
    says "expected *link to exist, found a link that leads nowhere" file_exists "$BATS_TEST_TMPDIR/link"
    says "expected nothing at $file, found a regular file" file_absent "$file"
    says "expected nothing at *link, found a symbolic link" file_absent "$BATS_TEST_TMPDIR/link"
}

@test "file_mode" {
    holds file_mode "$file" 0640
    holds file_mode "$file" 640
    says "expected $file to have mode 0600, found 0640" file_mode "$file" 0600
    says "expected /nowhere to exist, found nothing there" file_mode /nowhere 0600
}

@test "file_owner" {
    holds file_owner /etc/passwd root
    holds file_owner /etc/passwd root:root
    says "expected /etc/passwd to belong to daemon, found root:root" file_owner /etc/passwd daemon
    says "expected /etc/passwd to belong to root:daemon, found root:root" file_owner /etc/passwd root:daemon
    says "expected /nowhere to exist, found nothing there" file_owner /nowhere root
}

@test "file_contains and file_is" {
    holds file_contains "$file" 'two $(three)'
    holds file_contains "$file" $'one\ntwo'
    holds file_is "$file" $'one\ntwo $(three)'
    holds file_is "$file" $'one\ntwo $(three)\n'
    says "expected $file to contain 't*o', found 'one two \$(three) '" file_contains "$file" 't*o'
    says "expected $file to be 'one', found 'one two \$(three) '" file_is "$file" one
    says "expected /nowhere to exist, found nothing there" file_is /nowhere one
    says "expected /nowhere to exist, found nothing there" file_contains /nowhere one
}

@test "user_exists, user_absent and user_in_group" {
    holds user_exists root
    holds user_absent no-such-user
    holds user_in_group root root
    says "expected user no-such-user to exist, found no such user" user_exists no-such-user
    says "expected no user root, found that it exists" user_absent root
    says "expected user root to be in group daemon, found it in root*" user_in_group root daemon
    says "expected user no-such-user to exist, found no such user" user_in_group no-such-user root
}

@test "sysctl_is" {
    holds sysctl_is kernel.ostype Linux
    holds sysctl_is kernel/ostype Linux
    holds sysctl_is net.ipv4.ip_local_port_range "$(tr '\t' ' ' </proc/sys/net/ipv4/ip_local_port_range)"
    says "expected kernel.ostype to be Plan9, found Linux" sysctl_is kernel.ostype Plan9
    says "expected kernel.no.such to be 1, found no such parameter" sysctl_is kernel.no.such 1
}

@test "eventually" {
    holds eventually 0s true
    count="$BATS_TEST_TMPDIR/count"
    third_time() { echo x >>"$count" && [ "$(wc -l <"$count")" -ge 3 ]; }
    export -f third_time
    export count
    holds eventually 10s third_time
    before=$(date +%s%3N)
    says $'expected /nowhere to exist, found nothing there\nit was so for 500ms, in [34] tries' \
        eventually 500ms file_exists /nowhere
    took=$(($(date +%s%3N) - before))
    [ "$took" -ge 500 ] && [ "$took" -lt 5000 ]
    says $'expected `false` to succeed, found that it fails\nit was so for 0s, in 1 tries' eventually 0s false
    says "'soon' is no length of time; write it as 30s, 2m or 500ms" eventually soon true
}

@test "a length of time" {
    [ "$(_kiln_milliseconds 1h2m03s40ms)" = 3723040 ]
    for bad in '' 30 1d s '1s;reboot'; do
        run _kiln_milliseconds "$bad"
        [ "$status" -eq 1 ]
    done
}
