#!/bin/sh
# Makes the passwords of the stores and of Grafana at the first start, each into the volumes of those who need it.
# What exists is left as it is.
set -eu
root="${1:-/secrets}"
umask 022

put() { # put FILE TEXT: whole or not at all
    printf '%s' "$2" >"$root/$1.new"
    mv "$root/$1.new" "$root/$1"
}

password() { # password FILE: the one that is there, or a new one of 192 random bits
    if [ ! -s "$root/$1" ]; then
        put "$1" "$(head -c 24 /dev/urandom | od -An -tx1 | tr -d ' \n')"
    fi
    cat "$root/$1"
}

redis=$(password redis/password)
mariadb=$(password mariadb/password)
password mariadb/root_password >/dev/null
password grafana/password >/dev/null
put redis/password.conf "requirepass $redis
"
put gateway/starling_session_store "redis://:$redis@redis:6379/0"
put gateway/starling_transcript_store "mysql://starling:$mariadb@mariadb:3306/starling"
