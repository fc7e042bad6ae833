# shellcheck shell=bash
# Checks of a machine for BATS tests. In a .bats file:
#
#     load kiln
#     @test "the shop answers" {
#         service_active nginx
#         eventually 30s http_answers http://127.0.0.1/ 200 "Welcome"
#     }
#
# A check that holds is silent and returns 0. One that does not returns 1 and says in one line what it
# expected and what it found. kiln puts this file beside the tests of every image, and the `checks` of
# kiln.yaml are rendered into calls of these very functions.
#
# A test ends at the first command that fails, so what may fail in here is caught.

# How long one request or one question to the system may take, in seconds.
KILN_PATIENCE=10
# How long to wait between two tries of `eventually`, in seconds.
KILN_PAUSE=0.2

# Says what is wrong: _kiln_not EXPECTED FOUND
_kiln_not() {
    printf 'expected %s, found %s\n' "$1" "$2"
    return 1
}

# Whether a program is there that a check needs: _kiln_needs PROGRAM EXPECTED
_kiln_needs() {
    command -v "$1" >/dev/null || _kiln_not "$2" "no $1 on the machine to look with: install it in the image"
}

# Text in one line, cut where it gets long.
_kiln_line() {
    local text=${1//[[:cntrl:]]/ }
    if ((${#text} > 200)); then text="${text:0:200}..."; fi
    printf '%s' "$text"
}

# Milliseconds of a time such as 500ms, 30s, 2m or 1m30s.
_kiln_milliseconds() {
    local rest=$1 total=0
    while [[ $rest =~ ^([0-9]+)(ms|s|m|h) ]]; do
        case ${BASH_REMATCH[2]} in
            ms) total=$((total + 10#${BASH_REMATCH[1]})) ;;
            s) total=$((total + 10#${BASH_REMATCH[1]} * 1000)) ;;
            m) total=$((total + 10#${BASH_REMATCH[1]} * 60000)) ;;
            h) total=$((total + 10#${BASH_REMATCH[1]} * 3600000)) ;;
        esac
        rest=${rest#"${BASH_REMATCH[0]}"}
    done
    if [[ -n $rest || -z $1 ]]; then
        echo "'$1' is no length of time; write it as 30s, 2m or 500ms" >&2
        return 1
    fi
    echo "$total"
}

# Tries a command until it succeeds or the time is over: eventually TIME COMMAND [ARGUMENT...]
# The command is tried once at least, and what it said last is what a failure says.
eventually() {
    local time=$1 limit said began tries=0
    shift
    limit=$(_kiln_milliseconds "$time") || return
    began=$(date +%s%3N)
    while :; do
        tries=$((tries + 1))
        if said=$("$@" 2>&1); then return 0; fi
        if (($(date +%s%3N) - began >= limit)); then break; fi
        sleep "$KILN_PAUSE"
    done
    printf '%s\n' "${said:-expected \`$*\` to succeed, found that it fails}"
    printf 'it was so for %s, in %s tries\n' "$time" "$tries"
    return 1
}

# Something listens on a port: port_listens PORT [tcp|udp [ADDRESS]]
# ADDRESS is what the socket is bound to, such as 127.0.0.1, 0.0.0.0, ::1 or ::.
port_listens() {
    local port=$1 protocol=${2:-tcp} address=${3:-} line found=()
    local expected="port $port/$protocol to listen${address:+ on $address}"
    _kiln_needs ss "$expected" || return
    address=${address#[} address=${address%]}
    while read -r _ _ _ line _; do
        [[ ${line##*:} == "$port" ]] || continue
        line=${line%:*} line=${line%%\%*} line=${line#[} line=${line%]}
        # A socket for both families is shown as a star.
        case $address in
            '' | "$line") return 0 ;;
            0.0.0.0 | ::) [[ $line != '*' ]] || return 0 ;;
        esac
        found+=("$line")
    done < <(ss --no-header --listening --numeric "--$protocol" 2>/dev/null)
    if ((${#found[@]})); then
        _kiln_not "$expected" "it bound to ${found[*]}"
    else
        _kiln_not "$expected" "nothing that listens there"
    fi
}

# A property of a unit, as systemd shows it.
_kiln_unit() {
    LC_ALL=C timeout "$KILN_PATIENCE" systemctl show --property "$2" --value -- "$1" 2>/dev/null || true
}

# The state of a unit in words.
_kiln_state() {
    local state sub result
    if [[ $(_kiln_unit "$1" LoadState) == not-found ]]; then
        echo "no such unit"
        return
    fi
    state=$(_kiln_unit "$1" ActiveState)
    if [[ -z $state ]]; then
        echo "that systemctl does not answer"
        return
    fi
    sub=$(_kiln_unit "$1" SubState)
    result=$(_kiln_unit "$1" Result)
    if [[ -z $result || $result == success ]]; then echo "it $state ($sub)"; else echo "it $state ($result)"; fi
}

# A unit runs: service_active NAME
service_active() {
    _kiln_needs systemctl "$1 to be active" || return
    [[ $(_kiln_unit "$1" ActiveState) == active ]] || _kiln_not "$1 to be active" "$(_kiln_state "$1")"
}

# A unit does not run: service_inactive NAME
service_inactive() {
    _kiln_needs systemctl "$1 to be inactive" || return
    case $(_kiln_unit "$1" ActiveState) in
        inactive | failed) ;;
        *) _kiln_not "$1 to be inactive" "$(_kiln_state "$1")" ;;
    esac
}

# How a unit is installed, in systemctl's word.
_kiln_installed() {
    LC_ALL=C timeout "$KILN_PATIENCE" systemctl is-enabled -- "$1" 2>/dev/null || true
}

# A unit starts with the machine: service_enabled NAME
# `static` does not pass: such a unit starts when something else wants it.
service_enabled() {
    local word
    _kiln_needs systemctl "$1 to be enabled" || return
    word=$(_kiln_installed "$1")
    case $word in
        enabled | alias | generated) ;;
        *) _kiln_not "$1 to be enabled" "${word:-no such unit}" ;;
    esac
}

# A unit does not start with the machine, or is not there: service_disabled NAME
service_disabled() {
    local word
    _kiln_needs systemctl "$1 to be disabled" || return
    word=$(_kiln_installed "$1")
    case $word in
        enabled | enabled-runtime | alias | generated) _kiln_not "$1 to be disabled" "$word" ;;
    esac
}

# No unit has failed: no_failed_units
no_failed_units() {
    local units
    _kiln_needs systemctl "no failed unit" || return
    if ! units=$(LC_ALL=C timeout "$KILN_PATIENCE" systemctl list-units --failed --no-legend --plain --full 2>&1); then
        _kiln_not "no failed unit" "that systemctl does not answer: $(_kiln_line "$units")"
        return
    fi
    units=$(cut -d ' ' -f 1 <<<"$units" | tr '\n' ' ')
    [[ -z ${units// /} ]] || _kiln_not "no failed unit" "${units% }"
}

# A package is installed: package_installed NAME [VERSION]
# VERSION may have * and ?, such as '1.22.*'.
package_installed() {
    local version expected="package $1${2:+ $2} to be installed"
    if command -v dpkg-query >/dev/null; then
        version=$(dpkg-query --show --showformat '${db:Status-Status} ${Version}\n' -- "$1" 2>/dev/null |
            sed -n 's/^installed //p' | head -n 1) || true
    elif command -v rpm >/dev/null; then
        version=$(rpm --query --queryformat '%{VERSION}-%{RELEASE}\n' -- "$1" 2>/dev/null | head -n 1) || true
        [[ $version != *' is not installed' ]] || version=
    else
        _kiln_not "$expected" "neither dpkg-query nor rpm on the machine to look with"
        return
    fi
    if [[ -z $version ]]; then
        _kiln_not "$expected" "that it is not"
        return
    fi
    # The right side stays bare, so that its * and ? are those of a pattern.
    # shellcheck disable=SC2053
    [[ -z ${2:-} || $version == $2 ]] || _kiln_not "$expected" "$version"
}

# A package is not installed: package_absent NAME
package_absent() {
    ! package_installed "$1" >/dev/null || _kiln_not "package $1 not to be installed" "that it is"
}

# Something is mounted: mounted PATH [TYPE [OPTION...]]
# TYPE '' is any; an OPTION is one such as noexec or size=10240k.
mounted() {
    local path=$1 type=${2:-} option found kind options
    shift
    (($# == 0)) || shift
    local expected="$path to be mounted${type:+ as $type}"
    _kiln_needs findmnt "$expected" || return
    # What is mounted last is what is seen.
    if ! found=$(findmnt --noheadings --raw --output FSTYPE,OPTIONS --mountpoint "$path" 2>/dev/null | tail -n 1) ||
        [[ -z $found ]]; then
        _kiln_not "$expected" "nothing mounted there"
        return
    fi
    read -r kind options <<<"$found"
    if [[ -n $type && $kind != "$type" ]]; then
        _kiln_not "$expected" "$kind"
        return
    fi
    for option; do
        if [[ ,$options, != *",$option,"* ]]; then
            _kiln_not "$path to be mounted with $option" "$options"
            return
        fi
    done
}

# A file, folder or link that leads somewhere is there: file_exists PATH
file_exists() {
    if [[ -L $1 && ! -e $1 ]]; then
        _kiln_not "$1 to exist" "a link that leads nowhere"
    else
        [[ -e $1 ]] || _kiln_not "$1 to exist" "nothing there"
    fi
}

# Nothing is there: file_absent PATH
file_absent() {
    [[ ! -e $1 && ! -L $1 ]] || _kiln_not "nothing at $1" "a $(stat --format %F -- "$1")"
}

# A file has this mode, in octal: file_mode PATH MODE
file_mode() {
    local mode
    file_exists "$1" || return
    mode=$(stat --dereference --format %a -- "$1")
    ((8#$mode == 8#$2)) || _kiln_not "$1 to have mode $2" "$(printf '%04o' "$((8#$mode))")"
}

# A file belongs to a user, or a user and a group: file_owner PATH USER[:GROUP]
file_owner() {
    local owner
    file_exists "$1" || return
    owner=$(stat --dereference --format %U:%G -- "$1")
    [[ $owner == "$2" || ${owner%%:*} == "$2" ]] || _kiln_not "$1 to belong to $2" "$owner"
}

# A file has this text somewhere: file_contains PATH TEXT
file_contains() {
    local content
    file_exists "$1" || return
    content=$(tr -d '\0' <"$1" && echo .) || return
    [[ ${content%.} == *"$2"* ]] || _kiln_not "$1 to contain '$(_kiln_line "$2")'" "'$(_kiln_line "${content%.}")'"
}

# A file has this content and nothing else: file_is PATH CONTENT
# A newline at its end counts on neither side.
file_is() {
    local content
    file_exists "$1" || return
    content=$(tr -d '\0' <"$1" && echo .) || return
    content=${content%.}
    [[ ${content%$'\n'} == "${2%$'\n'}" ]] || _kiln_not "$1 to be '$(_kiln_line "$2")'" "'$(_kiln_line "$content")'"
}

# A user is there: user_exists NAME
user_exists() {
    getent passwd -- "$1" >/dev/null || _kiln_not "user $1 to exist" "no such user"
}

# No such user is there: user_absent NAME
user_absent() {
    ! getent passwd -- "$1" >/dev/null || _kiln_not "no user $1" "that it exists"
}

# A user is in a group: user_in_group NAME GROUP
user_in_group() {
    local groups
    user_exists "$1" || return
    groups=" $(id --name --groups -- "$1") "
    [[ $groups == *" $2 "* ]] || _kiln_not "user $1 to be in group $2" "it in${groups% }"
}

# A kernel parameter has this value: sysctl_is NAME VALUE
# Values of several numbers have one space between them.
sysctl_is() {
    local path=$1 words
    # A name with slashes may have dots in its parts, as that of a network interface.
    [[ $path == */* ]] || path=${path//.//}
    if ! read -r -a words 2>/dev/null <"/proc/sys/$path"; then
        _kiln_not "$1 to be $2" "no such parameter"
        return
    fi
    [[ ${words[*]} == "$2" ]] || _kiln_not "$1 to be $2" "${words[*]}"
}

# A web server answers: http_answers URL [STATUS [TEXT]]
# STATUS is 200 when it is not given; redirections are not followed. TEXT is somewhere in the answer.
http_answers() {
    local url=$1 status=${2:-200} text=${3:-} answer code
    local expected="status $status of $url"
    _kiln_needs curl "$expected" || return
    if ! answer=$(curl --silent --show-error --globoff --max-time "$KILN_PATIENCE" --write-out '\n%{http_code}' \
        --url "$url" 2>&1 | tr -d '\0' && exit "${PIPESTATUS[0]}"); then
        # Versions of curl differ in what they print first: the reason, or that there is no status.
        answer=${answer##*curl: }
        _kiln_not "$expected" "no answer: curl: $(_kiln_line "${answer%$'\n'000}")"
        return
    fi
    code=${answer##*$'\n'} answer=${answer%$'\n'*}
    if [[ $code != "$status" ]]; then
        _kiln_not "$expected" "$code"
        return
    fi
    [[ $answer == *"$text"* ]] || _kiln_not "'$(_kiln_line "$text")' in the answer of $url" "'$(_kiln_line "$answer")'"
}
