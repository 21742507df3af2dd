#!/usr/bin/env python3
"""How plyfs grows: with layers, with threads and clients, beside a large copy-up, and with a very large directory.

    sudo benches/scaling.py [--bin target/release/plyfs] [--only layers,threads,copyup-stat,bigdir] [--plot layers.svg]

It prints one Markdown section with one table for each of

  layers       walk (readdir and lstat of everything, twice) and miss (lstat of absent names after that, each name asked
               once only) of one view of 4,000 files in 60 shared directories, cut into 1, 16, 128 and 500 lower layers
  threads      operations a second of 1, 2, 4 and 8 processes in directories of their own: lstat of absent names, and
               creating files of 4 KiB; by threads=
  copyup-stat  how long an lstat takes, 1,000 times a second, without and with a copy-up of --gib GiB in another process
  bigdir       a lower directory of --entries empty files: listing it, the daemon's peak memory, unlinking two tenths of it
               name by name, and rm -rf of a lower tree of 100 directories of 100 files, which is to leave one whiteout

Each run has a fresh mount and a fresh upper layer; the implementations take turns, and the medians of --rounds are shown.
Peers are the kernel's OverlayFS and --fo20, fuse-overlayfs 2.0. That one runs with FUSE_OVERLAYFS_NO_PASSTHROUGH=1:
with passthrough, as root, what is written can reach the lower layer.
"""
import argparse, contextlib, math, multiprocessing, os, random, shutil, signal, stat, statistics, subprocess, sys, tempfile, time
from pathlib import Path

HERE = Path(__file__).resolve().parent
FORK = multiprocessing.get_context("fork")
LAYERS, CLIENTS, LIMIT = (1, 16, 128, 500), (1, 2, 4, 8), 120
FOLDERS, FILES, MISSES = 60, 4000, 40       # MISSES: absent names in each folder
COLOURS = ("#d1495b", "#30638e", "#3d8b5f", "#8d6a9f")


class Late(Exception):
    pass


class Peer:
    """Who serves the mount: a daemon, or without a binary the kernel."""

    def __init__(self, name, binary=None, options=""):
        self.name, self.binary, self.options, self.daemon = name, binary, options, None

    def mount(self, lowers, upper, work, merged):
        # mount(2) takes a page of options: the kernel gets names relative to the layers' folder.
        names = [low.name if self.binary is None else str(low) for low in lowers]
        options = f"lowerdir={':'.join(names)},upperdir={upper},workdir={work}" + (f",{self.options}" if self.options else "")
        if self.binary is None:
            done = subprocess.run(["mount", "-t", "overlay", "overlay", "-o", options, merged], cwd=lowers[0].parent,
                                  capture_output=True, text=True, env=os.environ | {"LIBMOUNT_FORCE_MOUNT2": "always"})
            if done.returncode:
                raise RuntimeError(f"refused: {done.stderr.strip().splitlines()[0][-120:]}")
            return
        before = os.stat(merged).st_dev
        self.daemon = subprocess.Popen([self.binary, "-f", "-o", options, str(merged)], stdin=subprocess.DEVNULL,
                                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                                       env=os.environ | {"FUSE_OVERLAYFS_NO_PASSTHROUGH": "1"})
        deadline = time.time() + 20
        while os.stat(merged).st_dev == before:
            if self.daemon.poll() is not None or time.time() > deadline:
                raise RuntimeError("did not mount")
            time.sleep(0.01)

    def peak(self):
        """MiB that the daemon held at most."""
        if not self.daemon:
            return None
        lines = Path(f"/proc/{self.daemon.pid}/status").read_text().splitlines()
        return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM")), None)

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


# Loads run in processes of their own, so that a daemon that hangs does not hang this one.

def start(function, *args):
    receiver, sender = FORK.Pipe(duplex=False)

    def body():
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        try:
            sender.send((True, function(*args)))
        except Exception as error:
            sender.send((False, f"{type(error).__name__}: {error}"))

    process = FORK.Process(target=body, daemon=True)
    process.start()
    sender.close()
    return process, receiver


def finish(started, limit=LIMIT):
    process, receiver = started
    if not receiver.poll(limit):
        process.kill()
        process.join(5)
        raise Late(f"over {limit:.0f} s")
    try:
        fine, value = receiver.recv()
    except EOFError:
        fine, value = False, "the client died"
    process.join(5)
    if not fine:
        raise RuntimeError(value)
    return value


def end_clients():
    for process in multiprocessing.active_children():
        process.kill()
        process.join(5)


@contextlib.contextmanager
def mounted(base, peer, lowers):
    """The view and its upper layer, fresh, and gone afterwards."""
    where = Path(tempfile.mkdtemp(prefix="run-", dir=base))
    upper, work, merged = (where / name for name in ("upper", "work", "merged"))
    for folder in (upper, work, merged):
        folder.mkdir(mode=0o755)
    os.sync()
    try:
        peer.mount(lowers, upper, work, merged)
        yield merged, upper
    finally:
        end_clients()
        peer.unmount(merged)
        if not os.path.ismount(merged):
            shutil.rmtree(where, ignore_errors=True)


def turns(args, cases):
    """Every case once a round, in another order each time."""
    for turn in range(args.rounds):
        yield from random.Random(turn).sample(cases, len(cases))


def failed(what, error):
    print(f"FAILED: {what}: {error}", file=sys.stderr)
    return str(error)


def table(title, said, head, rows):
    print(f"## {title}\n\n{said}\n\n| " + " | ".join(head) + " |\n|" + "---|" * len(head))
    for row in rows:
        print("| " + " | ".join(str(cell).replace("|", "/") for cell in row) + " |")
    print(flush=True)


# layers

def make_layers(base, many):
    """The same view for each count: all folders in every layer, and each file in one of them."""
    rng = random.Random(many)
    stack = [base / f"layers{many}" / f"l{number:03}" for number in range(many)]
    for layer in stack:
        for folder in range(FOLDERS):
            (layer / f"dir{folder:02}").mkdir(parents=True)
    for number in range(FILES):
        (stack[rng.randrange(many)] / f"dir{number % FOLDERS:02}" / f"file{number:04}").touch()
    for layer in stack:
        walk(layer)
    return stack


def walk(root):
    begin, count, pending = time.perf_counter(), 0, [str(root)]
    while pending:
        for entry in list(os.scandir(pending.pop())):
            count += 1
            if stat.S_ISDIR(os.lstat(entry.path).st_mode):
                pending.append(entry.path)
    return time.perf_counter() - begin, count


def miss(root, word):
    begin, count = time.perf_counter(), 0
    for folder in range(FOLDERS):
        for number in range(MISSES):
            try:
                os.lstat(f"{root}/dir{folder:02}/{word}{number}")
            except FileNotFoundError:
                count += 1
    return time.perf_counter() - begin, count


def layers_once(merged):
    taken = [walk(merged), walk(merged), miss(merged, "absent"), miss(merged, "nothing")]
    counts = [count for _, count in taken]
    wanted = [FOLDERS + FILES] * 2 + [FOLDERS * MISSES] * 2
    if counts != wanted:
        raise RuntimeError(f"a wrong view: {counts} entries, not {wanted}")
    return [seconds * 1000 for seconds, _ in taken]


def layers(args, base, peers):
    stacks, found = {many: make_layers(base, many) for many in args.layers}, {}
    for many, peer in turns(args, [(many, peer) for many in args.layers for peer in peers]):
        key = peer.name, many
        if isinstance(found.get(key), str):
            continue
        try:
            with mounted(base, peer, stacks[many]) as (merged, _):
                found.setdefault(key, []).append(finish(start(layers_once, merged)))
        except Exception as error:
            found[key] = failed(f"layers: {peer.name}, {many}", error)
    medians = {key: [statistics.median(column) for column in zip(*runs)] for key, runs in found.items() if isinstance(runs, list)}
    rows = []
    for peer in peers:
        one = medians.get((peer.name, args.layers[0]))
        for many in args.layers:
            ms = medians.get((peer.name, many))
            cells = [f"{value:.1f} ms" + (f" x{value / one[at]:.2f}" if one else "") for at, value in enumerate(ms)] if ms \
                else [found[peer.name, many], "-", "-", "-"]
            rows.append([peer.name, many, *cells])
    said = f"Medians of {args.rounds}; x: times the same implementation's with {args.layers[0]} layer(s). {FILES:,} files in " \
           f"{FOLDERS} directories that every layer has; {FOLDERS * MISSES:,} absent names, others the second time."
    table("Layers", said, ["", "layers", "walk", "walk again", "miss", "miss, other names"], rows)
    if args.plot:
        Path(args.plot).write_text(svg([peer.name for peer in peers], args.layers, medians))


def svg(names, counts, medians):
    """Two panels, first walk and misses: milliseconds over the count of layers (log)."""
    out = ['<svg xmlns="http://www.w3.org/2000/svg" width="900" height="400" font-family="sans-serif" font-size="12">'
           '<rect width="900" height="400" fill="white"/>']
    text = lambda x, y, what, anchor="middle": out.append(f'<text x="{x:.0f}" y="{y:.0f}" text-anchor="{anchor}">{what}</text>')
    for panel, (title, column) in enumerate((("walk, first time", 0), ("misses, names never asked before", 2))):
        left, right, top, bottom = 60 + 450 * panel, 430 + 450 * panel, 70, 345
        most = max([ms[column] for ms in medians.values()], default=1) * 1.05
        span = math.log(counts[-1] / counts[0]) or 1
        at = lambda many, value: (left + 10 + (right - left - 20) * math.log(many / counts[0]) / span,
                                  bottom - (bottom - top) * value / most)
        text((left + right) / 2, 60, f"{title} (ms)")
        text((left + right) / 2, 385, "lower layers (log)")
        unit = 10 ** math.floor(math.log10(most / 2))
        unit *= next(times for times in (1, 2, 5) if most / (unit * times) <= 8 or times == 5)
        for tick in range(int(most / unit) + 1):
            y = at(counts[0], tick * unit)[1]
            out.append(f'<path d="M{left} {y:.1f}H{right}" stroke="#ddd"/>')
            text(left - 5, y + 4, f"{tick * unit:g}", "end")
        out.append(f'<path d="M{left} {top}V{bottom}H{right}" stroke="black" fill="none"/>')
        for many in counts:
            text(at(many, 0)[0], bottom + 16, many)
        for number, name in enumerate(names):
            points = [at(many, medians[name, many][column]) for many in counts if (name, many) in medians]
            colour = COLOURS[number % len(COLOURS)]
            out.append(f'<polyline fill="none" stroke="{colour}" stroke-width="2" points="'
                       + " ".join(f"{x:.1f},{y:.1f}" for x, y in points) + '"/>')
            out += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in points]
    for number, name in enumerate(names):
        x = 60 + 200 * number
        out.append(f'<rect x="{x}" y="18" width="22" height="4" fill="{COLOURS[number % len(COLOURS)]}"/>')
        text(x + 30, 25, name, "start")
    return "\n".join(out) + "\n</svg>\n"


# threads

def client(folder, load, seconds, barrier):
    os.chdir(folder)
    block, count = b"x" * 4096, 0
    load("first", block)
    barrier.wait(30)
    begin = time.perf_counter()
    while (taken := time.perf_counter() - begin) < seconds:
        load(f"new{count}", block)
        count += 1
    return count / taken


def absent(name, _block):
    try:
        os.lstat(name)
    except FileNotFoundError:
        pass


def create(name, block):
    file = os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    os.write(file, block)
    os.close(file)


def threads(args, base, peers):
    lower, found = base / "clients", {}
    for number in range(max(CLIENTS)):
        (lower / f"own{number}").mkdir(parents=True)
        for file in range(100):
            (lower / f"own{number}" / f"file{file}").touch()
    served = [Peer("kernel")] + [Peer(f"plyfs threads={count}", args.bin, f"threads={count}") for count in (1, 2, 4)]
    served.append(Peer("plyfs, default", args.bin))
    loads = {"lookup of absent names": absent, "create of 4 KiB": create}
    for load, peer, count in turns(args, [(load, peer, count) for load in loads for peer in served for count in CLIENTS]):
        key = load, peer.name, count
        try:
            with mounted(base, peer, [lower]) as (merged, _):
                barrier = FORK.Barrier(count)
                clients = [start(client, merged / f"own{n}", loads[load], args.seconds, barrier) for n in range(count)]
                found.setdefault(key, []).append(sum([finish(one, args.seconds + 60) for one in clients]))
        except Exception as error:
            failed(f"threads: {key}", error)
    rows = [[load, peer.name] + [f"{statistics.median(found[key]):,.0f}" if (key := (load, peer.name, count)) in found else "FAILED"
                                 for count in CLIENTS] for load in loads for peer in served]
    said = f"Operations a second of all clients together, for {args.seconds:g} s; medians of {args.rounds}. " \
           f"{os.cpu_count()} processors, which the clients share with the daemon. Each client has a directory of its own."
    table("Threads", said, ["load", "", *(f"{count} client{'s' * (count > 1)}" for count in CLIENTS)], rows)


# copyup-stat

def make_big(base, gib):
    """A file of real data, of half of the room at most: the upper layer needs as much. GiB made, and its layer."""
    lower, room = base / "big", os.statvfs(base)
    gib = min(gib, room.f_bavail * room.f_frsize * 0.46 / (1 << 30))
    block = random.Random(1).randbytes(16 << 20)
    for folder in range(100):
        (lower / f"dir{folder:02}").mkdir(parents=True)
        for file in range(300):
            (lower / f"dir{folder:02}" / f"file{file:03}").touch()
    with open(lower / "big.bin", "wb") as file:
        for _ in range(max(1, int(gib * 64))):
            file.write(block)
    return max(1, int(gib * 64)) / 64, lower


def stats(merged, first, ended, most):
    """Milliseconds of each lstat, 1,000 a second, of files and of absent names in turn, none of them twice. One that is
    late because of those before it counts from when it was due."""
    taken, begin, number = [], time.perf_counter(), first
    while not ended.is_set() and time.perf_counter() - begin < most:
        due = begin + (number - first) / 1000
        if (wait := due - time.perf_counter()) > 0:
            time.sleep(wait)
            due = time.perf_counter()
        file = number // 2
        name = f"file{file // 100:03}" if number % 2 and file < 30000 else f"absent{number}"
        try:
            os.lstat(f"{merged}/dir{file % 100:02}/{name}")
        except FileNotFoundError:
            pass
        taken.append((time.perf_counter() - due) * 1000)
        number += 1
    return taken


def append(path):
    begin = time.perf_counter()
    with open(path, "ab", buffering=0) as file:
        file.write(b"x")
    return time.perf_counter() - begin


def copy_once(args, merged, upper, lower, gib):
    """The latencies without and with, and the seconds of the copy-up."""
    size, ended = (lower / "big.bin").stat().st_size, FORK.Event()
    without = finish(start(stats, merged, 0, ended, args.seconds * 3))
    asking = start(stats, merged, len(without), ended, LIMIT + 60 * gib)
    time.sleep(0.2)
    try:
        seconds = finish(start(append, merged / "big.bin"), LIMIT + 60 * gib)
    finally:
        ended.set()
    copied = finish(asking)
    sizes = (lower / "big.bin").stat().st_size, (upper / "big.bin").stat().st_size
    if sizes != (size, size + 1):
        os.truncate(lower / "big.bin", size)
        raise RuntimeError(f"lower and upper file of {sizes} bytes, not {(size, size + 1)}")
    return without, copied, seconds


def copyup_stat(args, base, peers):
    gib, lower = make_big(base, args.gib)
    chosen, found = [peer for peer in peers if peer.binary], {}
    for peer in turns(args, chosen):
        if isinstance(found.get(peer.name), str):
            continue
        try:
            with mounted(base, peer, [lower]) as (merged, upper):
                found.setdefault(peer.name, []).append(copy_once(args, merged, upper, lower, gib))
        except Exception as error:
            found[peer.name] = failed(f"copyup-stat: {peer.name}", error)
    rows = []
    for peer in chosen:
        runs = found[peer.name]
        if isinstance(runs, str):
            rows.append([peer.name, runs] + ["-"] * 5)
            continue
        for at, case in enumerate(("no copy-up", "copy-up")):
            all_ms = sorted(ms for run in runs for ms in run[at])
            taken = f"{statistics.median(run[2] for run in runs):.1f} s" if at else "-"
            rows.append([peer.name, case, taken, f"{len(all_ms):,}", f"{statistics.median(all_ms):.3f}",
                         f"{all_ms[min(len(all_ms) - 1, len(all_ms) * 99 // 100)]:.3f}", f"{all_ms[-1]:.3f}"])
    said = f"Milliseconds of an lstat, 1,000 a second, of names not asked before, while {gib:g} GiB are copied up by " \
           f"appending a byte; {args.rounds} runs taken together."
    table("Copy-up and lstat", said, ["", "", "copy-up takes", "lstats", "median", "99th percentile", "maximum"], rows)
    shutil.rmtree(lower)


# bigdir

def make_bigdir(base, entries):
    lower = base / "million"
    (lower / "big").mkdir(parents=True)
    for number in range(entries):
        os.mknod(lower / "big" / f"e{number:07}")
    for folder in range(100):
        (lower / "tree" / f"dir{folder:02}").mkdir(parents=True)
        for file in range(100):
            (lower / "tree" / f"dir{folder:02}" / f"file{file:02}").touch()
    return lower


def listing(folder, reached):
    begin = time.perf_counter()
    with os.scandir(folder) as entries:
        for _ in entries:
            reached.value += 1
    return time.perf_counter() - begin


def unlinks(folder, first, count, reached):
    begin = time.perf_counter()
    for number in range(first, first + count):
        os.unlink(f"{folder}/e{number:07}")
        reached.value += 1
    return time.perf_counter() - begin


def remove(tree):
    begin = time.perf_counter()
    done = subprocess.run(["rm", "-rf", tree], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr.splitlines()[0][-150:])
    return time.perf_counter() - begin


def step(function, *args, of=None):
    """The seconds that it took, or in words how far it got."""
    reached = FORK.Value("q", 0, lock=False)
    try:
        seconds = finish(start(function, *args, *([reached] if of else [])))
        return seconds if not of or reached.value == of else f"{reached.value:,} of {of:,}"
    except Late as late:
        return f"{late}, {reached.value:,} of {of:,} reached" if of else str(late)
    except RuntimeError as error:
        return f"{error}, {reached.value:,} reached"


def whiteouts(upper):
    """What rm -rf has left in the upper layer."""
    left = sorted(set(os.listdir(upper)) - {"big"})
    made = [os.lstat(upper / name) for name in left]
    one = left == ["tree"] and stat.S_ISCHR(made[0].st_mode) and made[0].st_rdev == 0
    return "one whiteout" if one else f"NOT one whiteout: {left}"


def bigdir_once(peer, merged, upper, entries):
    tenth, row = entries // 10, [step(listing, merged / "big", of=entries)]
    row.append(peer.peak())
    row += [step(unlinks, merged / "big", first, tenth, of=tenth) for first in (0, tenth)]
    return row + [peer.peak(), step(remove, merged / "tree"), whiteouts(upper)]


def median(cells, form):
    """Of the numbers; words say themselves."""
    words = [cell for cell in cells if isinstance(cell, str)]
    return words[0] if words else "-" if cells[0] is None else form.format(statistics.median(cells))


def bigdir(args, base, peers):
    needed, own = args.entries * 13 // 10 + 100000, None
    if os.statvfs(base).f_favail < needed:
        print(f"bigdir: {base} has no {needed:,} inodes left, so /dev/shm is used", file=sys.stderr)
        base = own = Path(tempfile.mkdtemp(prefix="plyfs-scaling-", dir="/dev/shm"))
    try:
        lower, found = make_bigdir(base, args.entries), {}
        for peer in turns(args, peers):
            try:
                with mounted(base, peer, [lower]) as (merged, upper):
                    found.setdefault(peer.name, []).append(bigdir_once(peer, merged, upper, args.entries))
            except Exception as error:
                failed(f"bigdir: {peer.name}", error)
    finally:
        clean(own)
    forms = ["{:.2f} s", "{:.0f} MiB", "{:.2f} s", "{:.2f} s", "{:.0f} MiB", "{:.2f} s", "{}"]
    rows = [[peer.name] + ([median(cells, form) for cells, form in zip(zip(*found[peer.name]), forms)] if peer.name in found
                           else ["FAILED"] * len(forms)) for peer in peers]
    said = f"{args.entries:,} empty files in one lower directory, on {'/dev/shm' if own else base.parent}; medians of {args.rounds}."
    count = f"{args.entries // 10:,}"
    table("A large directory", said, ["", "list", "peak memory", f"unlink {count}", f"next {count}", "peak memory then",
                                      "rm -rf 100 x 100", "left at the top of upper"], rows)


SECTIONS = {"layers": layers, "threads": threads, "copyup-stat": copyup_stat, "bigdir": bigdir}


def clean(base):
    # A mount that would not go is not to be walked into.
    if base and not any(os.path.ismount(merged) for merged in base.glob("run-*/merged")):
        shutil.rmtree(base, ignore_errors=True)


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin", default=str(HERE.parent / "target/release/plyfs"), help="plyfs")
    parser.add_argument("--fo20", default="/usr/local/bin/fo20", help="fuse-overlayfs 2.0 (passed over if not there)")
    parser.add_argument("--base", default="/mnt/bench/scaling", help="folder for the layers (default: /mnt/bench/scaling)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", help="sections to print, comma separated")
    parser.add_argument("--plot", metavar="FILE", help="write the layers' figures here, as an SVG")
    parser.add_argument("--layers", default=",".join(map(str, LAYERS)), help="counts of layers")
    parser.add_argument("--seconds", type=float, default=1.0, help="of each run of threads; a third of copyup-stat's without")
    parser.add_argument("--gib", type=float, default=4, help="size of the file that is copied up, if there is room")
    parser.add_argument("--entries", type=int, default=1000000, help="files of the large directory")
    args = parser.parse_args()
    if os.geteuid() != 0:
        sys.exit("scaling.py: run it as root (the kernel's OverlayFS is mounted beside the others)")
    if not os.access(args.bin, os.X_OK):
        sys.exit(f"scaling.py: {args.bin} is not there: cargo build --release")
    args.bin, args.layers = str(Path(args.bin).resolve()), [int(many) for many in args.layers.split(",")]
    args.chosen = args.only.split(",") if args.only else list(SECTIONS)
    if unknown := set(args.chosen) - set(SECTIONS):
        sys.exit(f"scaling.py: no such section: {', '.join(sorted(unknown))}")
    return args


def main():
    args = parse()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("scaling.py: ended"))     # So that what is mounted goes.
    peers = [Peer("kernel"), Peer("plyfs", args.bin)]
    if os.access(args.fo20, os.X_OK):
        peers.insert(1, Peer("fuse-overlayfs 2.0", args.fo20))
    Path(args.base).mkdir(parents=True, exist_ok=True)
    base = Path(tempfile.mkdtemp(prefix="plyfs-scaling-", dir=args.base))
    base.chmod(0o755)
    try:
        for name in args.chosen:
            SECTIONS[name](args, base, peers)
    finally:
        clean(base)


if __name__ == "__main__":
    sys.exit(main())
