# Debian packages: tools the build needs installed, and packages it only downloads and unpacks. Sourced, never run.

# as_root COMMAND...: run it with the rights to install packages; fails when there are none.
as_root() {
	if [ "$(id -u)" = 0 ]; then
		"$@"
	elif sudo -n true 2>/dev/null; then
		sudo -n "$@"
	else
		return 1
	fi
}

# Everything that any step needs, for who has to ask an administrator and would rather ask once.
ALL_TOOLS="make gcc libc6-dev binutils flex bison bc libelf-dev xz-utils lz4 qemu-system-x86 debootstrap e2fsprogs"

# need PACKAGE...: make sure that the packages are installed, or say what to run and stop.
need() {
	local p missing=()
	for p; do
		[ "$(dpkg-query -W -f '${db:Status-Status}' "$p" 2>/dev/null)" = installed ] || missing+=("$p")
	done
	[ ${#missing[@]} -gt 0 ] || return 0
	as_root true || die "Debian packages are missing; run: sudo apt-get install --no-install-recommends $ALL_TOOLS"
	say "installing ${missing[*]}"
	apt_lists
	as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "${missing[@]}" \
		>"$WORK/log/apt.log" 2>&1 || { tail "$WORK/log/apt.log" >&2; die "apt-get install ${missing[*]} failed"; }
}

# apt_lists [again]: make sure that apt knows what packages there are.
apt_lists() {
	[ "${1:-}" != again ] && compgen -G '/var/lib/apt/lists/*_Packages*' >/dev/null && return
	say "fetching the package lists (apt-get update)"
	as_root apt-get update -q >"$WORK/log/apt-update.log" 2>&1 ||
		die "apt has no current package lists: run: sudo apt-get update"
}

# resolve: fill KERNEL, and VERSION[package] and SHA256[package] of what is downloaded. The answer is kept until apt's
# lists change, for apt-cache takes most of a second.
declare -A VERSION SHA256
resolve() {
	command -v apt-cache >/dev/null || die "the guest artefacts come from Debian packages, and this system has no apt"
	apt_lists
	local known=$WORK/versions key
	key=$(stat -c '%n %s %Y' /var/lib/apt/lists/*_Packages* "$GUEST/packages.sh" | sha256sum | cut -d' ' -f1)
	[ -f "$known" ] && [ "$(head -n 1 "$known")" = "$key" ] || { ask_apt "$key" >"$known.part" && mv "$known.part" "$known"; } || exit 1
	local package version sha256
	while read -r package version sha256; do
		VERSION[$package]=$version SHA256[$package]=$sha256
		case $package in linux-image-*) KERNEL=$package ;; esac
	done < <(tail -n +2 "$known")
}

# ask_apt KEY: print KEY, then a line "package version sha256" for each package.
ask_apt() {
	local kernel
	kernel=$(apt-cache show --no-all-versions linux-image-cloud-amd64 2>/dev/null |
		sed -n 's/^Depends: \(linux-image-[^ ,]*\).*/\1/p')
	[ -n "$kernel" ] || die "apt knows no linux-image-cloud-amd64: Debian's main archive must be among its sources"
	echo "$1"
	apt-cache show --no-all-versions "$kernel" linux-source-6.1 busybox-static | awk '
		$1 == "Package:" { p = $2 } $1 == "Version:" { v = $2 } $1 == "SHA256:" { print p, v, $2; n++ }
		END { exit n != 3 }' || die "apt does not know all of $kernel, linux-source-6.1, busybox-static"
}

# fetch PACKAGE: download it, whole and verified, and leave its path in DEB.
fetch() {
	mkdir -p "$WORK/debs"
	DEB=$(deb_path "$1")
	[ -f "$DEB" ] && return
	say "downloading $1 ${VERSION[$1]}"
	download "$1" && return
	apt_lists again # a version that Debian has replaced is no longer on its servers
	resolve
	DEB=$(deb_path "$1")
	download "$1" || die "download of $1 ${VERSION[$1]} failed; see $WORK/log/download.log"
}

deb_path() { echo "$WORK/debs/$1_${VERSION[$1]//:/%3a}.deb"; }

# download PACKAGE: to DEB. Our own downloader continues what was interrupted and shows progress; where it cannot do it
# (a proxy that only apt knows, a mirror: address), apt does.
download() {
	local uri part=$WORK/debs/apt
	uri=$(apt-get download --print-uris "$1=${VERSION[$1]}" 2>"$WORK/log/download.log" | sed -n "s/^'\(http[^']*\)'.*/\1/p")
	[ -n "$uri" ] && (cd "$GUEST" && go run ./fetch "$uri" "${SHA256[$1]}" "$DEB") && return
	rm -rf "$part" && mkdir -p "$part"
	(cd "$part" && apt-get download -q -o APT::Sandbox::User="$(id -un)" "$1=${VERSION[$1]}") >>"$WORK/log/download.log" 2>&1 || return
	sha256_is "$part"/*.deb "${SHA256[$1]}" || die "$1 ${VERSION[$1]}: the downloaded file is not the one that apt's lists promise"
	mv "$part"/*.deb "$DEB"
}
