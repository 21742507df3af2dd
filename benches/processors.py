#!/usr/bin/env python3
"""What the processors do to plyfs: idle, beside programs that compute, with a quota, with other numbers of them. As root.

    benches/processors.py [--bin target/release/plyfs] [--only idle,busy,quota,pretended] [--fo20 BINARY] [--before BINARY]

For each section it prints a Markdown table of six loads: microseconds an operation (the median), and the ratio to
`spin=off` (the median of the ratios of one round). Behind it stands the daemon's processor time for 100,000 operations (the mean).

    idle       nobody else computes
    busy       beside `stress-ng --cpu 2`
    quota      the daemon is in a control group that has half a processor (cpu.max; version 1: cpu.cfs_quota_us)
    pretended  plyfs believes that there are 1, 4 and 8 processors (PLYFS_PROCESSORS)

Layers are in memory. Each run has a fresh mount and upper layer, and in each round the implementations take turns. Peers
are fuse-overlayfs on the PATH, and --fo20, its version 2.0, without passthrough. --before is another plyfs.
"""
import argparse, os, random, shutil, signal, statistics, subprocess, sys, tempfile, time
from pathlib import Path

sys.dont_write_bytecode = True
from programs import HERE, Peer, fuse_overlayfs
from scaling import absent, clock, create, finish, mounted, start, walk

FOLDERS, FILES = 200, 25        # Of the lower tree; FILES in each folder, of SIZE bytes.
SIZE, MISSES = 2000, 50         # MISSES: absent names in each folder.
TICKS = os.sysconf("SC_CLK_TCK")
CGROUPS = Path("/sys/fs/cgroup")
PERIOD, QUOTA = 100_000, 50_000     # Microseconds.

def make_tree(root):
    for folder in range(FOLDERS):
        (root / f"dir{folder:03}").mkdir(parents=True)
        for file in range(FILES):
            (root / f"dir{folder:03}" / f"file{file:03}").write_bytes(b"x" * SIZE)

def files(root):
    return [f"{root}/dir{folder:03}/file{file:03}" for folder in range(FOLDERS) for file in range(FILES)]

def miss(root):
    return sum(absent(f"{root}/dir{n // MISSES:03}/absent{n % MISSES}") for n in range(FOLDERS * MISSES))

def creates(root):
    os.mkdir(f"{root}/new")
    for number in range(4000):
        create(f"{root}/new/file{number}", b"x" * 4096)
    return 4000

def rename(root):
    names = files(root)[::4]
    for name in names:
        os.rename(name, name + ".new")
    return len(names)

def remove(root):
    shutil.rmtree(f"{root}/dir000")      # The first one, so that the loop below removes names that were not listed yet.
    names = files(root)[FILES:]
    list(map(os.unlink, names))
    return len(names) + FILES + 1

def read_all(root):
    count = 0
    for entry in list(os.scandir(root)):
        if entry.is_dir():
            count += read_all(entry.path)
        else:
            with open(entry.path, "rb") as file:
                file.read()
            count += 1
    return count

LOADS = {"miss": miss, "create-4k": creates, "rename": rename, "walk-cold": walk, "remove": remove, "readall-cold": read_all}

class Contestant(Peer):
    """A peer with an environment, and perhaps in a control group."""
    def __init__(self, name, binary, options="", group=None, **environment):
        super().__init__(name, binary, options)
        self.group, self.environment = group, environment

    def mount(self, *where):
        os.environ |= self.environment
        move = lambda group: (group / "cgroup.procs").write_text(str(os.getpid()))
        if self.group:      # The daemon is to find itself in it when it starts.
            move(self.group)
        try:
            super().mount(*where)
        finally:
            if self.group:
                move(self.group.parent)
            for key in self.environment:
                del os.environ[key]

    def seconds(self):
        """Of processor time that the daemon has had."""
        fields = Path(f"/proc/{self.daemon.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

def once(peer, load, merged):
    before = peer.seconds()
    seconds, count = finish(start(clock, load, str(merged)))
    return seconds / count * 1e6, (peer.seconds() - before) / count * 1e5

def compare(args, base, title, peers, reference):
    """One table; the ratios are to the peer of the name `reference`."""
    found = {}
    for turn in range(args.rounds):
        for name, load in LOADS.items():
            for peer in random.Random(turn).sample(peers, len(peers)):
                with mounted(base, peer, [base / "tree"]) as (merged, _):
                    found.setdefault((peer.name, name), []).append(once(peer, load, merged))
    print(f"## {title}\n\n| | " + " | ".join(LOADS) + " |\n|" + "---|" * (len(LOADS) + 1))
    for peer in peers:
        cells = []
        for load in LOADS:
            runs, others = found[peer.name, load], found[reference, load]
            ratio = statistics.median(one / other for (one, _), (other, _) in zip(runs, others))
            took, used = statistics.median(took for took, _ in runs), statistics.mean(used for _, used in runs)
            cells.append(f"{took:.1f} x{ratio:.2f}, {used:.1f} s")
        print(f"| {peer.name} | " + " | ".join(cells) + " |")
    print(flush=True)

def own(args, **more):
    before = [Contestant("plyfs before", args.before, **more)] if args.before else []
    return [Contestant("plyfs", args.bin, **more), Contestant("plyfs spin=off", args.bin, "spin=off", **more),
            Contestant("plyfs threads=1", args.bin, "threads=1", **more), *before]

def others(args):
    found = [(peer.name, peer.binary) for peer in fuse_overlayfs()]
    if os.access(args.fo20, os.X_OK):
        found.append(("fuse-overlayfs 2.0", args.fo20))
    return [Contestant(name, binary) for name, binary in found]

def idle(args, base):
    compare(args, base, "Idle", own(args) + others(args), "plyfs spin=off")

def busy(args, base):
    with subprocess.Popen(["stress-ng", "--cpu", "2", "--quiet"]) as load:
        try:
            time.sleep(1)
            compare(args, base, "Beside two programs that compute", own(args) + others(args), "plyfs spin=off")
        finally:
            load.terminate()

def quota(args, base):
    is_first = (CGROUPS / "cpu").is_dir()       # Version 1 has a tree for each controller.
    group = (CGROUPS / "cpu" if is_first else CGROUPS) / f"plyfs-bench-{os.getpid()}"
    group.mkdir()
    try:
        if is_first:
            (group / "cpu.cfs_period_us").write_text(str(PERIOD))
            (group / "cpu.cfs_quota_us").write_text(str(QUOTA))
        else:
            (group / "cpu.max").write_text(f"{QUOTA} {PERIOD}")
        compare(args, base, "With a quota of half a processor", own(args, group=group), "plyfs spin=off")
    finally:
        group.rmdir()

def pretended(args, base):
    for count in 1, 4, 8:
        peers = own(args, PLYFS_PROCESSORS=str(count))[:2]
        compare(args, base, f"With {count} processors pretended", peers, "plyfs spin=off")

SECTIONS = {"idle": idle, "busy": busy, "quota": quota, "pretended": pretended}

def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default, said in (
            ("bin", str(HERE.parent / "target/release/plyfs"), "plyfs"),
            ("before", "", "another plyfs, to compare with"),
            ("fo20", "/usr/local/bin/fo20", "fuse-overlayfs 2.0 (passed over if not there)"),
            ("base", "/dev/shm", "folder for the layers"),
            ("rounds", 9, "runs of each"), ("only", ",".join(SECTIONS), "sections to print, comma separated")):
        parser.add_argument(f"--{name}", type=type(default), default=default, help=said)
    args = parser.parse_args()
    if os.geteuid() != 0 or set(args.only.split(",")) - set(SECTIONS):
        sys.exit(f"processors.py: run it as root; the sections are {', '.join(SECTIONS)}")
    args.bin = str(Path(args.bin).resolve())
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("processors.py: ended"))      # So that what is mounted goes.
    os.environ |= {"FUSE_OVERLAYFS_NO_PASSTHROUGH": "1"}
    base = Path(tempfile.mkdtemp(prefix="plyfs-processors-", dir=args.base))
    try:
        make_tree(base / "tree")
        for name in args.only.split(","):
            SECTIONS[name](args, base)
    finally:
        # A mount that would not go is not to be walked into.
        if not any(os.path.ismount(merged) for merged in base.glob("run-*/merged")):
            shutil.rmtree(base, ignore_errors=True)

if __name__ == "__main__":
    sys.exit(main())
