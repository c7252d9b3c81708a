# initramfs-bench.cpio: the busybox guest with fio, iperf3 and a probe of ours, for `qenex bench`. Not part of `all`. Sourced, never run.

# fio without what it links with in Debian (80 MiB of libraries of storage services): from Debian's source, static.
FIO_VERSION=3.33
FIO_SHA256=d2410e13e0f379d061d077cc5ae325835bb7c6186aa7bafc1df954cbc9b014fc
FIO_URL=${DEBIAN_MIRROR:-http://deb.debian.org/debian}/pool/main/f/fio/fio_$FIO_VERSION.orig.tar.gz

build_bench() {
	local key
	build_busybox
	need make gcc libc6-dev iperf3
	key=$FIO_SHA256-$(dpkg-query -W -f '${Version}' iperf3)-$(<"$STAMPS/busybox")-$(digest "$GUEST"/bench/* "$GUEST/bench.sh" "$GUEST"/{initramfs,mkinitramfs}/*.go)
	fresh bench "$key" "$OUT/initramfs-bench.cpio" && return
	build_fio
	timed "initramfs-bench" pack_bench
	done_with bench "$key"
}

build_fio() {
	fresh fio "$FIO_SHA256" "$WORK/bench/fio" && return
	mkdir -p "$WORK/bench"
	(cd "$GUEST" && go run ./fetch "$FIO_URL" "$FIO_SHA256" "$WORK/bench/fio.tar.gz") || die "download of $FIO_URL failed"
	timed "fio $FIO_VERSION" make_fio
	done_with fio "$FIO_SHA256"
}

# make_fio: for any x86-64, with none of the libraries that the host happens to have.
make_fio() {
	rm -rf "$WORK/bench/source" && mkdir "$WORK/bench/source"
	tar xf "$WORK/bench/fio.tar.gz" --strip-components=1 -C "$WORK/bench/source"
	cd "$WORK/bench/source"
	./configure --build-static --disable-native --disable-numa --disable-rdma --disable-rados --disable-rbd --disable-http \
		--disable-gfapi --disable-libnfs --disable-pmem --disable-libzbc --disable-shm
	make -s -j"$(nproc)" fio
	strip -o ../fio fio
}

pack_bench() {
	local spec=$WORK/bench/spec program file
	gcc -O2 -Wall -Werror -static -o "$WORK/bench/probe" "$GUEST/bench/probe.c"
	program=$(command -v iperf3)
	{
		echo "dir /bin 0755 0 0"
		echo "file /measure $GUEST/bench/measure 0644 0 0"
		echo "file /bin/probe $WORK/bench/probe 0755 0 0"
		echo "file /bin/fio $WORK/bench/fio 0755 0 0"
		echo "file /bin/iperf3 $program 0755 0 0"
		dirs=
		for file in $(ldd "$program" | grep -o '/[^ ]*'); do
			dirs+=" $(parents "$file")"
			echo "file $file $(readlink -f "$file") 0755 0 0"
		done
		tr ' ' '\n' <<<"$dirs" | sort -u | sed -n 's|^/.*|dir & 0755 0 0|p'
	} >"$spec.all"
	# Directories before what is in them.
	{ grep '^dir ' "$spec.all"; grep -v '^dir ' "$spec.all"; } >"$spec"
	(cd "$GUEST" && go run ./mkinitramfs -o "$WORK/bench/tools.cpio" "$spec")
	cat "$OUT/initramfs-busybox.cpio" "$WORK/bench/tools.cpio" >"$OUT/initramfs-bench.cpio.part"
	mv "$OUT/initramfs-bench.cpio.part" "$OUT/initramfs-bench.cpio"
}

# parents PATH: its directories, outermost first.
parents() {
	local p=${1%/*} all=
	while [ -n "$p" ]; do
		all="$p $all"
		p=${p%/*}
	done
	echo "$all"
}
