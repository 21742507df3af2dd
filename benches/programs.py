#!/usr/bin/env python3
"""Time whole programs on a mount over a lower layer: plyfs beside the kernel's OverlayFS and fuse-overlayfs. As root.

    cargo build --release
    benches/programs.py [--scale 0.1] [--only du,grep] [--base DIR] [--volatile] [--peer fol2=/usr/local/bin/fuse-overlayfs]

Each program runs on a fresh mount over a fresh upper layer, with the page cache warm; the implementations take turns
round by round, so that a drift of the machine falls on all of them. Printed is a Markdown table of medians, with the
ratio to the kernel's OverlayFS (x1.00 = as fast; higher = slower). Peers are each fuse-overlayfs on the PATH and any
--peer NAME=BINARY[,OPTION...] that takes `-f -o lowerdir=,upperdir=,workdir= DIR`.

The kernel and plyfs sync what they copy up, fuse-overlayfs does not: --volatile adds the columns that compare like with
like. --base chooses the file system of the layers. What cannot run here is said on stderr (SKIPPED) and not in the table.

    git-status     `git status` in a repository of 50,000 files in the lower layer
    git-checkout   `git checkout` of another commit in it, which differs in one file in ten
    tar-x          `tar x` of a tree of 10,000 files into the mount
    cargo-build    `cargo build --offline` of a crate of 40 modules in the lower layer
    rm-rf, du, grep       `rm -rf`, `du -s` and `grep -r` of the tree in the lower layer
    sqlite-wal, sqlite-rollback     300 transactions of 10 inserts into a database in the lower layer
    dpkg-install   `dpkg --root -i` of a package of 2,000 files; the lower layer has a copy of the host's /var/lib/dpkg
"""
import argparse, json, os, random, shutil, signal, sqlite3, statistics, subprocess, sys, tempfile, time
from pathlib import Path

HERE = Path(__file__).resolve().parent
WORDS = "layer upper lower merged whiteout opaque redirect origin metacopy index inode name view mark".split()
MODULES = 40


class Skip(Exception):
    """Something that is not there."""


def run(*command, cwd=None, timeout=900):
    """Runs a program to its end; what it says."""
    env = dict(os.environ, GIT_CONFIG_GLOBAL="/dev/null", GIT_CONFIG_SYSTEM="/dev/null", LC_ALL="C")
    done = subprocess.run(list(map(str, command)), cwd=cwd, env=env, stdin=subprocess.DEVNULL, capture_output=True,
                          text=True, timeout=timeout)
    if done.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))[:60]}: {(done.stderr or done.stdout).strip()[-200:]}")
    return done.stdout


def needs(*programs):
    for program in programs:
        if not shutil.which(program):
            raise Skip(f"no {program} on the PATH")


# What stands in the lower layers. Each is made once.

def text(rng, most):
    return " ".join(rng.choices(WORDS, k=max(1, int(min(most, rng.expovariate(8 / most)) / 7)))) + "\n"


def make_tree(root, files, seed=1, most=20000):
    """Folders of 25 files, most of them small."""
    rng = random.Random(seed)
    for number in range(files):
        folder = root / f"group{number // 1000:02}" / f"dir{number // 25:05}"
        if number % 25 == 0:
            folder.mkdir(parents=True)
        (folder / f"file{number:06}.txt").write_text(text(rng, most))


def make_repository(root, scale):
    needs("git")
    make_tree(root, max(50, int(50000 * scale)), most=4000)
    git = ["git", "-c", "user.name=bench", "-c", "user.email=bench@localhost", "-c", "gc.auto=0"]
    run("git", "init", "-q", "-b", "main", root)
    run(*git, "add", "-A", cwd=root)
    run(*git, "commit", "-qm", "one", cwd=root)
    run(*git, "checkout", "-qb", "other", cwd=root)
    for number, path in enumerate(sorted(root.glob("group*/*/*"))):
        if number % 10 == 0:
            path.write_text(f"changed {number}\n")
    run(*git, "commit", "-qam", "two", cwd=root)
    run(*git, "checkout", "-q", "main", cwd=root)
    time.sleep(1.1)     # An index as old as the files would be read as one that cannot be trusted.
    run(*git, "update-index", "--refresh", "-q", cwd=root)
    run(*git, "status", cwd=root)


def make_source(root, scale):
    tree = root / "tree"
    make_tree(tree, max(50, int(10000 * scale)))


def make_archive(root, scale):
    """The lower layer has a folder for what comes; the archive is beside it."""
    needs("tar")
    (root / "into").mkdir()
    with tempfile.TemporaryDirectory(dir=root.parent) as made:
        make_tree(Path(made) / "tree", max(50, int(10000 * scale)))
        run("tar", "cf", root.with_suffix(".tar"), "-C", made, "tree")


def module(number):
    functions = "\n".join(
        f"pub fn step{step}(table: &mut Table) -> Option<u64> {{\n"
        f"    let sum: u64 = table.rows.iter().filter(|(_, v)| *v % {step + 2} == 0).map(|(_, v)| v ^ {number}).sum();\n"
        f"    table.rows.insert(format!(\"m{number}-{step}-{{sum}}\"), sum);\n"
        f"    table.rows.values().copied().max().filter(|v| v % {step + 3} != 1)\n}}" for step in range(12))
    return (f"use std::collections::BTreeMap;\n#[derive(Clone, Debug, Default, PartialEq)]\n"
            f"pub struct Table {{ pub rows: BTreeMap<String, u64> }}\n{functions}\n"
            f"pub fn all(table: &mut Table) -> u64 {{ [{', '.join(f'step{step}(table)' for step in range(12))}]"
            f".into_iter().flatten().sum() }}\n")


def make_crate(root, _scale):
    needs("cargo")
    (root / "src").mkdir()
    (root / "Cargo.toml").write_text('[package]\nname = "bench"\nversion = "0.1.0"\nedition = "2021"\n[workspace]\n')
    names = [f"module{number:02}" for number in range(MODULES)]
    for number, name in enumerate(names):
        (root / "src" / f"{name}.rs").write_text(module(number))
    body = "".join(f"    sum += {name}::all(&mut {name}::Table::default());\n" for name in names)
    mods = "".join(f"mod {name};\n" for name in names)
    (root / "src/main.rs").write_text(f"{mods}fn main() {{\n    let mut sum = 0;\n{body}    println!(\"{{sum}}\");\n}}\n")
    with tempfile.TemporaryDirectory(dir=root.parent) as target:
        try:
            run("cargo", "build", "--offline", "-q", "--target-dir", target, cwd=root)
        except RuntimeError as error:
            raise Skip(str(error)) from error


def make_database(root, _scale):
    base = sqlite3.connect(root / "base.db")
    base.execute("create table t (id integer primary key, word text)")
    base.execute("create index by_word on t (word)")
    base.executemany("insert into t (word) values (?)", ((f"{WORDS[i % len(WORDS)]}{i}",) for i in range(20000)))
    base.commit()
    base.close()


def make_packages(root, scale):
    needs("dpkg", "dpkg-deb")
    if not Path("/var/lib/dpkg/status").exists():
        raise Skip("no /var/lib/dpkg here")
    shutil.copytree("/var/lib/dpkg", root / "var/lib/dpkg", symlinks=True)
    with tempfile.TemporaryDirectory(dir=root.parent) as made:
        package = Path(made)
        package.chmod(0o755)
        make_tree(package / "usr/share/plyfs-bench", max(50, int(2000 * scale)))
        (package / "DEBIAN").mkdir()
        (package / "DEBIAN/control").write_text("Package: plyfs-bench\nVersion: 1\nArchitecture: all\n"
                                                "Maintainer: bench <bench@localhost>\nDescription: files\n")
        run("dpkg-deb", "--build", "-Znone", package, root.with_suffix(".deb"))


LAYERS = {"repository": make_repository, "source": make_source, "archive": make_archive, "crate": make_crate,
          "database": make_database, "packages": make_packages}


# The programs: they get the mount and its lower layer, and return what must be the same for all.

def insert(journal):
    def program(merged, _lower):
        base = sqlite3.connect(merged / "base.db")
        mode = base.execute(f"pragma journal_mode={journal}").fetchone()[0]
        for batch in range(300):
            base.executemany("insert into t (word) values (?)", ((f"new{batch}-{i}",) for i in range(10)))
            base.commit()
        count = base.execute("select count(*) from t").fetchone()[0]
        base.close()
        return mode, count
    return program


def remove(merged, _lower):
    run("rm", "-rf", merged / "tree")
    return os.listdir(merged)


def install(merged, lower):
    run("dpkg", f"--root={merged}", "--log=/dev/null", "-i", lower.with_suffix(".deb"))
    return "plyfs-bench" in (merged / "var/lib/dpkg/status").read_text()


def disk_usage(merged, _lower):
    run("du", "-s", merged / "tree")        # A directory's size is each one's own.


PROGRAMS = {
    "git-status": ("repository", lambda merged, _: run("git", "status", cwd=merged)),
    "git-checkout": ("repository", lambda merged, _: run("git", "checkout", "-q", "other", cwd=merged)),
    "tar-x": ("archive", lambda merged, lower: run("tar", "xf", lower.with_suffix(".tar"), "-C", merged / "into")),
    "cargo-build": ("crate", lambda merged, _: run("cargo", "build", "--offline", "-q", cwd=merged)),
    "rm-rf": ("source", remove),
    "du": ("source", disk_usage),
    "grep": ("source", lambda merged, _: len(run("grep", "-r", "opaque redirect", "tree", cwd=merged))),
    "sqlite-wal": ("database", insert("wal")),
    "sqlite-rollback": ("database", insert("delete")),
    "dpkg-install": ("packages", install),
}


class Peer:
    """Who serves the mount: a daemon, or without a binary the kernel."""

    def __init__(self, name, binary=None, options=""):
        self.name, self.binary, self.options, self.daemon = name, binary, options, None

    def mount(self, lower, upper, work, merged):
        options = f"lowerdir={lower},upperdir={upper},workdir={work}" + (f",{self.options}" if self.options else "")
        if self.binary is None:
            run("mount", "-t", "overlay", "overlay", "-o", options, merged)
            return
        before = os.stat(merged).st_dev
        self.daemon = subprocess.Popen([self.binary, "-f", "-o", options, str(merged)], stdin=subprocess.DEVNULL,
                                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.time() + 20
        while os.stat(merged).st_dev == before:
            if self.daemon.poll() is not None or time.time() > deadline:
                raise RuntimeError(f"{self.name} did not mount")
            time.sleep(0.01)

    def unmount(self, merged):
        for _ in range(50):
            if not os.path.ismount(merged):
                break
            subprocess.run(["umount", merged], stderr=subprocess.DEVNULL)
            time.sleep(0.02)
        else:
            subprocess.run(["umount", "-l", merged])
        if self.daemon:
            try:
                self.daemon.wait(20)
            except subprocess.TimeoutExpired:
                self.daemon.kill()
                self.daemon.wait()
            self.daemon = None


def fuse_overlayfs():
    """Each version on the PATH: the old one in C and the new one in Rust are two."""
    found = {}
    for folder in os.get_exec_path():
        binary = Path(folder) / "fuse-overlayfs"
        if os.access(binary, os.X_OK):
            said = subprocess.run([binary, "--version"], capture_output=True, text=True).stdout.splitlines()
            version = next((line.split()[-1] for line in said if line.startswith("fuse-overlayfs")), "unknown")
            found.setdefault(f"fuse-overlayfs {version}", str(binary))
    return [Peer(name, binary) for name, binary in found.items()]


def peers(args):
    named = []
    for peer in args.peer:
        name, binary = peer.split("=", 1)
        named.append(Peer(name, *binary.split(",", 1)))
    others = fuse_overlayfs() + named
    if not others:
        skipped("fuse-overlayfs", "there is none on the PATH")
    chosen = [Peer("kernel"), *others, Peer("plyfs", args.bin)]
    if args.volatile:
        chosen[1:1] = [Peer("kernel volatile", None, "volatile")]
        chosen.append(Peer("plyfs volatile", args.bin, "volatile"))
    return chosen


def skipped(what, why):
    print(f"SKIPPED: {what}: {why}", file=sys.stderr)


def once(base, lower, peer, program):
    """The seconds of one run, and its answer."""
    where = Path(tempfile.mkdtemp(prefix="run-", dir=base))
    upper, work, merged = (where / name for name in ("upper", "work", "merged"))
    for folder in (upper, work, merged):
        folder.mkdir(mode=0o755)
    try:
        os.sync()
        peer.mount(lower, upper, work, merged)
        start = time.perf_counter()
        answer = program(merged, lower)
        return time.perf_counter() - start, answer
    finally:
        peer.unmount(merged)
        if not os.path.ismount(merged):
            shutil.rmtree(where, ignore_errors=True)


def measure(base, lower, name, program, chosen, rounds):
    """The seconds by peer; an error in words where one fails."""
    row, answers = {}, {}
    for turn in range(rounds):
        for peer in random.Random(turn).sample(chosen, len(chosen)):
            if isinstance(row.get(peer.name), str):
                continue
            try:
                seconds, answer = once(base, lower, peer, program)
            except Exception as error:
                row[peer.name] = str(error)
                print(f"FAILED: {name}: {peer.name}: {error}", file=sys.stderr)
                continue
            row.setdefault(peer.name, []).append(seconds)
            first = answers.setdefault("first", (peer.name, answer))
            if answer != first[1]:
                print(f"DIFFERENT: {name}: {peer.name}: {answer!r:.200}, {first[0]}: {first[1]!r:.200}", file=sys.stderr)
    return row


def table(results, chosen, rounds):
    print(f"Medians of {rounds}.\n")
    print("| program | " + " | ".join(peer.name for peer in chosen) + " |\n|---|" + "---|" * len(chosen))
    for name, row in results.items():
        base = row.get("kernel")
        cells = []
        for peer in chosen:
            seconds = row.get(peer.name)
            if isinstance(seconds, list):
                median = statistics.median(seconds)
                ratio = f" x{median / statistics.median(base):.2f}" if isinstance(base, list) else ""
                cells.append(f"{median * 1000:.1f} ms{ratio}")
            else:
                cells.append("FAILED")
        print(f"| {name} | " + " | ".join(cells) + " |")


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin", default=str(HERE.parent / "target/release/plyfs"), help="plyfs")
    parser.add_argument("--peer", action="append", default=[], metavar="NAME=BINARY[,OPTION...]")
    parser.add_argument("--volatile", action="store_true", help="add the kernel and plyfs with -o volatile")
    parser.add_argument("--base", default="/var/tmp", help="folder for the layers (default: /var/tmp)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--scale", type=float, default=1.0, help="how many files, 1.0: as said above")
    parser.add_argument("--only", help="programs to run, comma separated")
    parser.add_argument("--json", help="write the seconds here")
    args = parser.parse_args()
    if os.geteuid() != 0:
        sys.exit("programs.py: run it as root (the kernel's OverlayFS is mounted beside the others)")
    if not os.access(args.bin, os.X_OK):
        sys.exit(f"programs.py: {args.bin} is not there: cargo build --release")
    args.bin = str(Path(args.bin).resolve())
    args.chosen = args.only.split(",") if args.only else list(PROGRAMS)
    if unknown := set(args.chosen) - set(PROGRAMS):
        sys.exit(f"programs.py: no such program: {', '.join(sorted(unknown))}")
    return args


def main():
    args = parse()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("programs.py: ended"))     # So that what is mounted goes.
    chosen, made, results = peers(args), {}, {}
    base = Path(tempfile.mkdtemp(prefix="plyfs-programs-", dir=args.base))
    base.chmod(0o755)
    try:
        for name in args.chosen:
            layer, program = PROGRAMS[name]
            try:
                if layer not in made:
                    made[layer] = base / layer
                    made[layer].mkdir()
                    LAYERS[layer](made[layer], args.scale)
                if made[layer] is None:
                    raise Skip(f"its layer ({layer}) could not be made")
            except Skip as why:
                made[layer] = None
                skipped(name, why)
                continue
            results[name] = measure(base, made[layer], name, program, chosen, args.rounds)
    finally:
        # A mount that would not go is not to be walked into.
        if not any(os.path.ismount(merged) for merged in base.glob("run-*/merged")):
            shutil.rmtree(base, ignore_errors=True)
    table(results, chosen, args.rounds)
    if args.json:
        Path(args.json).write_text(json.dumps(results, indent=1))
    failed = any(isinstance(cell, str) for name, row in results.items() for peer, cell in row.items() if "plyfs" in peer)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
