# What packagers know: make, make install PREFIX=… DESTDIR=…, make uninstall, make deb, make static.
PREFIX ?= /usr/local
STATIC = x86_64-unknown-linux-musl

all:
	cargo build --release --locked

install uninstall:
	PREFIX=$(PREFIX) DESTDIR=$(DESTDIR) ./install.sh $@

# Debian's package, by cargo-deb (cargo install cargo-deb): target/debian/plyfs_VERSION_ARCH.deb
deb: all
	cargo deb --no-build --locked

# One file that runs on every Linux (rustup target add $(STATIC)): target/$(STATIC)/release/plyfs
static:
	cargo build --release --locked --target $(STATIC)

.PHONY: all install uninstall deb static
