#!/bin/sh
# Download the archives of LIST into the folder STORE; each gets its name only if its SHA-256 is right.
#   fetch_archives.sh LIST STORE      LIST: a file, or - for standard input; lines `SHA256  https://…/NAME.mar`
# What STORE has already is not downloaded again. # begins a comment.
set -eu
list=$1 store=$2
part=$store/.part
trap 'rm -f "$part"' EXIT

check() { printf '%s  %s\n' "$1" "$2" | sha256sum --check --status; }
fail() { echo "error: $*" >&2; exit 1; }

mkdir -p "$store"
sed 's/#.*//' "$list" | while read -r sum url rest; do
    [ -n "$sum" ] || continue
    name=${url##*/}
    printf '%s\n' "$sum $name $rest" | grep -Eq '^[0-9a-fA-F]{64} [A-Za-z0-9_-][A-Za-z0-9._-]*\.mar $' ||
        fail "this line of the list is not 'SHA256  https://…/NAME.mar': $sum $url $rest"
    if [ -e "$store/$name" ]; then
        check "$sum" "$store/$name" || fail "$store/$name has another SHA-256: give the new archive another name"
    else
        curl --fail --silent --show-error --location --proto '=https,http,file' --output "$part" "$url" ||
            fail "$url cannot be downloaded"
        check "$sum" "$part" || fail "$url has the SHA-256 $(sha256sum "$part" | cut -c -64), and the list says $sum"
        mv "$part" "$store/$name"
    fi
    echo "$store/$name"
done
