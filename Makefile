# What packagers know: make, make install PREFIX=… DESTDIR=…, make uninstall, make deb, make static.
PREFIX ?= /usr/local
STATIC = x86_64-unknown-linux-musl
# zstd is in C: musl-gcc (musl-tools) compiles it for musl, and so does cc, as it asks for nothing that glibc alone has.
STATIC_CC = $(shell command -v musl-gcc || echo cc)

all:
	cargo build --release --locked

install uninstall:
	PREFIX=$(PREFIX) DESTDIR=$(DESTDIR) ./install.sh $@

# Debian's package, by cargo-deb (cargo install cargo-deb): target/debian/plyfs_VERSION_ARCH.deb
deb: all
	cargo deb --no-build --locked

# One file that runs on every Linux (rustup target add $(STATIC)): target/$(STATIC)/release/plyfs
static:
	CC_x86_64_unknown_linux_musl=$(STATIC_CC) cargo build --release --locked --target $(STATIC)

.PHONY: all install uninstall deb static
