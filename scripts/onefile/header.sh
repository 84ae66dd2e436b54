#!/bin/sh
# arcbackupd @VERSION@ in one file: the daemon; the client where its name ends in "ctl"; the set-up where it ends in
# "setup". It runs with the system's python3 and unpacks itself once, below one of these directories:
#     /var/cache/arcbackupd      root's: all other users run from it too
#     ~/.cache/arcbackupd        a user's own, where root never ran it
# What follows after this script is a zip archive: `unzip -l` shows it. The Debian package has the two apart.
set -eu

digest=@DIGEST@
archive=$0
shared=/var/cache/arcbackupd/$digest

program=arcbackupd
case ${0##*/} in
*ctl) program=arcbackupctl ;;
*setup) set -- setup "$@" ;;
*) if [ "${1:-}" = ctl ]; then program=arcbackupctl && shift; fi ;;
esac

# Root runs nothing that another user could have put there: neither from a home, wherever HOME points in a sudo, nor
# from a directory that was given away. The unpacked Python is a link: after an upgrade of the system's it may be dead.
if [ -x "$shared/bin/python" ] && { [ ! -O / ] || [ -O "${shared%/*}" ]; }; then
    exec "$shared/bin/python" -I "$shared/bin/$program" "$@"
fi

if [ "$(id -u)" = 0 ]; then
    unpacked=$shared
else
    cache=${XDG_CACHE_HOME:-${HOME:-}/.cache}
    unpacked=$cache/arcbackupd/$digest
    if [ -x "$unpacked/bin/python" ] && [ -O "$unpacked" ]; then
        exec "$unpacked/bin/python" -I "$unpacked/bin/$program" "$@"
    fi
fi

for python in /usr/bin/python3 python3 @PYTHONS@; do
    if "$python" -I -c 'import sys; sys.exit(sys.version_info[:2] not in @VERSIONS@)' 2>/dev/null; then
        "$python" -I "$archive" "$unpacked" || exit 1
        exec "$unpacked/bin/python" -I "$unpacked/bin/$program" "$@"
    fi
done
echo "arcbackupd: there is no Python on this host that it runs with." >&2
echo "  hint: Install one of @PYTHONS@: apt install python3" >&2
exit 1
