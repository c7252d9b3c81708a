# What every step of the guest build shares: places, progress, digests, stamps, the lock. Sourced, never run.

GUEST=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
CACHE=${QENEX_CACHE:-$HOME/.cache/qenex}
OUT=$CACHE/guest  # finished artefacts: everything here is whole
WORK=$CACHE/work  # downloads, unpacked sources, half-made things
STAMPS=$WORK/stamps

say() { printf 'guest: %s\n' "$*" >&2; }
die() { printf 'guest: error: %s\n' "$*" >&2; exit 1; }

# digest FILE...: one SHA-256 over the files' contents.
digest() { cat "$@" | sha256sum | cut -d' ' -f1; }

# text_digest WORD...: SHA-256 of the words.
text_digest() { printf '%s\n' "$@" | sha256sum | cut -d' ' -f1; }

# sha256_is FILE DIGEST
sha256_is() { [ -f "$1" ] && [ "$(sha256sum <"$1" | cut -d' ' -f1)" = "$2" ]; }

# fresh STEP KEY FILE...: has STEP been done with this KEY, and are its files still there?
fresh() {
	local stamp=$STAMPS/$1 key=$2 f
	shift 2
	[ -f "$stamp" ] && [ "$(<"$stamp")" = "$key" ] || return 1
	for f; do [ -s "$f" ] || return 1; done
}

# done_with STEP KEY
done_with() { printf '%s\n' "$2" >"$STAMPS/$1.part" && mv "$STAMPS/$1.part" "$STAMPS/$1"; }

# timed WHAT COMMAND...: run with the output in a log, say now and then how far it is and at last how long it took; on
# failure show the log's end.
timed() {
	local what=$1 log start=$SECONDS status ticker
	shift
	log=$WORK/log/${what%% *}.log
	say "$what ..."
	while sleep 20 >/dev/null 2>&1 && kill -0 $$ 2>/dev/null; do
		say "  $((SECONDS - start)) s: $(tail -n 1 "$log")"
	done 9>&- &
	ticker=$!
	set +e # a command tested by `if` would run on after errors inside it
	(set -e; "$@") >"$log" 2>&1
	status=$?
	set -e
	kill $ticker
	if [ $status != 0 ]; then
		tail -n 25 "$log" >&2
		die "$what failed; the whole log is $log"
	fi
	say "$what: done in $((SECONDS - start)) s"
}

# one_at_a_time: hold the cache's lock until this script ends.
one_at_a_time() {
	mkdir -p "$OUT" "$WORK/log" "$STAMPS"
	exec 9>"$WORK/lock"
	if ! flock -n 9; then
		say "another build of the guest artefacts is running; waiting for it"
		flock 9
	fi
}
