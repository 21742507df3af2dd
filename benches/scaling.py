#!/usr/bin/env python3
"""How plyfs grows: with layers, threads and clients, beside a large copy-up, with a very large directory. As root.

    benches/scaling.py [--bin target/release/plyfs] [--only layers,threads,copyup-stat,bigdir] [--plot layers.svg]

It prints a Markdown section with one table for each of

    layers       walk (readdir and lstat of everything, twice) and miss (lstat of absent names after that, none asked
                 twice) of one view, 4,000 files in 60 shared directories, cut into 1, 16, 128 and 500 lower layers
    threads      operations a second of 1 to 8 processes: lstat of absent names, creating files of 4 KiB; by threads=
    copyup-stat  how long an lstat takes, 1,000 times a second, without and with a copy-up of --gib GiB beside it
    bigdir       a lower directory of --entries empty files: listing it, the daemon's peak memory, unlinking two tenths;
                 and rm -rf of a lower tree of 100 directories of 100 files, which is to leave one whiteout

Each run has a fresh mount and upper layer, the implementations take turns. Peers are the kernel's OverlayFS and --fo20,
fuse-overlayfs 2.0, without its passthrough, through which root's writes can reach the lower layer.
"""
import argparse, contextlib, math, multiprocessing, os, random, shutil, signal, stat, statistics, subprocess, sys, tempfile, time
from pathlib import Path

sys.dont_write_bytecode = True
from programs import HERE, Peer, run

FORK = multiprocessing.get_context("fork")
CLIENTS, LIMIT = (1, 2, 4, 8), 120          # LIMIT: seconds of a step
FOLDERS, FILES, MISSES = 60, 4000, 40       # MISSES: absent names in each folder
COLOURS = "#d1495b", "#30638e", "#3d8b5f"

def start(function, *args):
    """In a process (and group) of its own, so that a daemon that hangs does not hang this one."""
    receiver, sender = FORK.Pipe(duplex=False)
    def body():
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.setpgid(0, 0)
        try:
            sender.send((function(*args), None))
        except Exception as error:
            sender.send((None, repr(error)))
    process = FORK.Process(target=body, daemon=True)
    process.start()
    sender.close()
    return process, receiver

def end(process):
    with contextlib.suppress(OSError):
        os.killpg(process.pid, signal.SIGKILL)
    process.join(5)

def finish(started, limit=LIMIT):
    process, receiver = started
    if not receiver.poll(limit):
        end(process)
        raise RuntimeError(f"over {limit:.0f} s")
    value, error = receiver.recv()
    if error:
        raise RuntimeError(error)
    return value

def clock(function, *args):
    begin = time.perf_counter()
    value = function(*args)
    return time.perf_counter() - begin, value

@contextlib.contextmanager
def mounted(base, peer, lowers):
    """The view and its upper layer, fresh, and gone afterwards."""
    where = Path(tempfile.mkdtemp(prefix="run-", dir=base))
    upper, work, merged = (where / name for name in ("upper", "work", "merged"))
    for folder in (upper, work, merged):
        folder.mkdir(mode=0o755)
    os.sync()
    try:
        # mount(2) takes a page of options: the kernel gets names relative to the layers' folder.
        with contextlib.chdir(lowers[0].parent):
            peer.mount(":".join(low.name if peer.binary is None else str(low) for low in lowers), upper, work, merged)
        yield merged, upper
    finally:
        for process in multiprocessing.active_children():
            end(process)
        peer.unmount(merged)
        if not os.path.ismount(merged):
            shutil.rmtree(where, ignore_errors=True)

def measure(args, base, cases, once):
    """What `once` gave for each case (its key, peer and lower layers), a list by key; an error in words where it failed."""
    found = {}
    for turn in range(args.rounds):
        for key, peer, lowers in random.Random(turn).sample(cases, len(cases)):
            if isinstance(found.get(key), str):
                continue
            try:
                with mounted(base, peer, lowers) as (merged, upper):
                    found.setdefault(key, []).append(once(key, peer, merged, upper))
            except Exception as error:
                found[key] = "FAILED: " + (str(error) or repr(error)).splitlines()[0].split(": ")[-1]
                print(f"FAILED: {key}: {error}", file=sys.stderr)
    return found

def table(title, said, head, rows):
    print(f"## {title}\n\n{said}\n\n| " + " | ".join(head) + " |\n|" + "---|" * len(head))
    for row in rows:
        print("| " + " | ".join([str(cell).replace("|", "/") for cell in row] + ["-"] * (len(head) - len(row))) + " |")
    print(flush=True)

def tree(root, folders, files):
    for folder in range(folders):
        (root / f"dir{folder:02}").mkdir(parents=True)
        for file in range(files):
            os.mknod(root / f"dir{folder:02}" / f"file{file:03}")

# layers
def make_layers(base, many):
    """The same view for each count: all folders in every layer, and each file in one of them."""
    rng = random.Random(many)
    stack = [base / f"layers{many}" / f"l{number:03}" for number in range(many)]
    for layer in stack:
        tree(layer, FOLDERS, 0)
    for number in range(FILES):
        os.mknod(rng.choice(stack) / f"dir{number % FOLDERS:02}" / f"file{number:04}")
    list(map(walk, stack))      # So that the first peer finds them as warm as the others.
    return stack

def walk(root):
    return sum(1 + (walk(entry.path) if stat.S_ISDIR(os.lstat(entry.path).st_mode) else 0) for entry in list(os.scandir(root)))

def absent(name, _block=None):
    try:
        return os.lstat(name) is None
    except FileNotFoundError:
        return True

def layers_once(merged):
    miss = lambda word: sum(absent(f"{merged}/dir{n // MISSES:02}/{word}{n % MISSES}") for n in range(FOLDERS * MISSES))
    taken = [clock(walk, merged), clock(walk, merged), clock(miss, "absent"), clock(miss, "nothing")]
    counts, wanted = [count for _, count in taken], [FOLDERS + FILES] * 2 + [FOLDERS * MISSES] * 2
    if counts != wanted:
        raise RuntimeError(f"a wrong view: {counts} entries, not {wanted}")
    return [seconds * 1000 for seconds, _ in taken]

def layers(args, base, peers):
    stacks = {many: make_layers(base, many) for many in args.layers}
    cases = [((peer.name, many), peer, stacks[many]) for peer in peers for many in args.layers]
    found = measure(args, base, cases, lambda key, peer, merged, upper: finish(start(layers_once, merged)))
    medians = {key: list(map(statistics.median, zip(*runs))) for key, runs in found.items() if isinstance(runs, list)}
    rows = []
    for name, many in [key for key, _, _ in cases]:
        one, ms = medians.get((name, args.layers[0])), medians.get((name, many))
        ratio = lambda at: f" x{ms[at] / one[at]:.2f}" if one else ""
        rows.append([name, many] + ([f"{ms[at]:.1f} ms{ratio(at)}" for at in range(4)] if ms else [found[name, many]]))
    said = f"Medians of {args.rounds}; x: times the same implementation's with {args.layers[0]} layer(s). {FILES:,} files in " \
           f"{FOLDERS} directories that every layer has; {FOLDERS * MISSES:,} absent names, others the second time."
    table("Layers", said, ["", "layers", "walk", "walk again", "miss", "miss, other names"], rows)
    if args.plot:
        Path(args.plot).write_text(svg([peer.name for peer in peers], args.layers, medians))

def svg(names, counts, medians):
    """Two panels, the first walk and the first misses: milliseconds over the count of layers (log)."""
    out = ['<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 900 400" style="background:white" font-family="sans-serif" font-size="12">']
    text = lambda x, y, what, where="middle", fill="black": out.append(
        f'<text x="{x:.0f}" y="{y:.0f}" text-anchor="{where}" fill="{fill}">{what}</text>')
    for left, title, column in (60, "first walk", 0), (510, "misses, names never asked before", 2):
        most = max([ms[column] for ms in medians.values()], default=1) * 1.05
        x = lambda many: left + 10 + 350 * math.log(many / counts[0]) / (math.log(counts[-1] / counts[0]) or 1)
        y = lambda value: 345 - 275 * value / most
        text(left + 185, 60, f"{title}: ms by lower layers")
        unit = float(f"{most / 5:.0e}")
        for tick in range(int(most / unit) + 1):
            out.append(f'<path d="M{left} {y(tick * unit):.1f}h370" stroke="{"#ddd" if tick else "black"}"/>')
            text(left - 5, y(tick * unit) + 4, f"{tick * unit:g}", "end")
        for many in counts:
            text(x(many), 361, many)
        for number, (name, colour) in enumerate(zip(names, COLOURS)):
            points = [f"{x(many):.1f},{y(medians[name, many][column]):.1f}" for many in counts if (name, many) in medians]
            out.append(f'<polyline fill="none" stroke="{colour}" stroke-width="2" points="{" ".join(points)}"/>')
            text(left + 130 * number, 25, f"&#9632; {name}", "start", colour)
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

def create(name, block):
    file = os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    os.write(file, block)
    os.close(file)

def threads(args, base, _peers):
    tree(base / "clients", max(CLIENTS), 100)
    loads = {"lookup of absent names": absent, "create of 4 KiB": create}
    served = [Peer("kernel"), *(Peer(f"plyfs threads={count}", args.bin, f"threads={count}") for count in (1, 2, 4)),
              Peer("plyfs, default", args.bin)]

    def once(key, _peer, merged, _upper):
        load, _, count = key
        barrier = FORK.Barrier(count)
        clients = [start(client, merged / f"dir{n:02}", loads[load], args.seconds, barrier) for n in range(count)]
        return sum([finish(one, args.seconds + 60) for one in clients])

    cases = [((load, peer.name, count), peer, [base / "clients"]) for load in loads for peer in served for count in CLIENTS]
    found = measure(args, base, cases, once)
    rows = [[load, peer.name] + [median(found[load, peer.name, count], "{:,.0f}") for count in CLIENTS]
            for load in loads for peer in served]
    said = f"Operations a second of all clients together, for {args.seconds:g} s; medians of {args.rounds}. " \
           f"{os.cpu_count()} processors, which the clients share with the daemon. Each client has a directory of its own."
    table("Threads", said, ["load", "", *(f"clients: {count}" for count in CLIENTS)], rows)

# copyup-stat
def make_big(base, gib):
    """A layer with a file of real data, of half of the room at most: the upper layer needs as much. It, and the GiB made."""
    lower, room, block = base / "big", os.statvfs(base), random.Random(1).randbytes(1 << 24)
    blocks = max(1, int(64 * min(gib, room.f_bavail * room.f_frsize * 0.46 / (1 << 30))))
    tree(lower, 100, 300)
    with open(lower / "big.bin", "wb") as file:
        for _ in range(blocks):
            file.write(block)
    return lower, blocks / 64

def stats(merged, first, ended, most):
    """Milliseconds of each lstat. One that is late because of those before it counts from when it was due."""
    taken, begin = [], time.perf_counter()
    late = lambda: begin + len(taken) / 1000 < time.perf_counter()      # Those due while one hung are still to come.
    while late() or not ended.is_set() and time.perf_counter() - begin < most:
        due, number = begin + len(taken) / 1000, (first + len(taken)) // 2
        if (wait := due - time.perf_counter()) > 0:
            time.sleep(wait)
            due = time.perf_counter()
        what = "file" if len(taken) % 2 and number < 30000 else "absent"
        absent(f"{merged}/dir{number % 100:02}/{what}{number // 100:03}")
        taken.append((time.perf_counter() - due) * 1000)
    return taken

def copyup_stat(args, base, peers):
    lower, gib = make_big(base, args.gib)
    big, limit, size = lower / "big.bin", LIMIT + 60 * gib, (lower / "big.bin").stat().st_size

    def once(_key, _peer, merged, upper):
        ended = FORK.Event()
        without = finish(start(stats, merged, 0, ended, args.seconds * 3))
        asking = start(stats, merged, len(without), ended, limit)
        time.sleep(0.2)
        seconds, _ = finish(start(clock, lambda: open(merged / "big.bin", "ab", buffering=0).write(b"x")), limit)
        ended.set()
        if (sizes := (big.stat().st_size, (upper / "big.bin").stat().st_size)) != (size, size + 1):
            os.truncate(big, size)
            raise RuntimeError(f"the lower and the upper file have {sizes} bytes, not {(size, size + 1)}")
        return without, finish(asking), seconds

    found, rows = measure(args, base, [(peer.name, peer, [lower]) for peer in peers if peer.binary], once), []
    for name, runs in sorted(found.items()):
        for at, case in enumerate(("no copy-up", "copy-up")):
            if isinstance(runs, str):
                rows.append([name, case, runs])
                continue
            ms = sorted(one for run in runs for one in run[at])
            takes = median([run[2] for run in runs], "{:.1f} s") if at else "-"
            rows.append([name, case, takes, f"{len(ms):,}", *(f"{ms[(len(ms) - 1) * part // 100]:.3f}" for part in (50, 99, 100))])
    said = f"Milliseconds of an lstat, 1,000 a second, of files and absent names in turn, none asked twice, beside an append of " \
           f"a byte to {gib:g} GiB; {args.rounds} run(s) taken together. plyfs syncs what it copies up, fuse-overlayfs does not."
    table("Copy-up and lstat", said, ["", "", "copy-up takes", "lstats", "median", "99 %", "maximum"], rows)

# bigdir
def step(whole, doing):
    """The seconds that it took, or in words how far it got."""
    reached = FORK.Value("q", 0, lock=False)
    def count():
        for reached.value, _ in enumerate(doing(), 1):
            pass
        if reached.value != whole:
            raise RuntimeError("ended")
    try:
        return finish(start(clock, count))[0]
    except RuntimeError as error:
        return f"{error}, {reached.value:,} of {whole:,} reached"

def whiteouts(upper):
    left = {name: os.lstat(upper / name) for name in os.listdir(upper) if name != "big"}
    one = list(left) == ["tree"] and stat.S_ISCHR(left["tree"].st_mode) and left["tree"].st_rdev == 0
    return "one whiteout" if one else f"NOT one whiteout: {list(left)}"

def median(cells, form):
    """Of the numbers; words say themselves."""
    words = [cells] if isinstance(cells, str) else [cell for cell in cells if isinstance(cell, str)]
    return words[0] if words else form.format(statistics.median(cells))

def bigdir(args, base, peers):
    total, tenth = args.entries, args.entries // 10
    (base / "million/big").mkdir(parents=True)
    for number in range(total):
        os.mknod(base / f"million/big/e{number:07}")
    tree(base / "million/tree", 100, 100)

    def once(_key, peer, merged, upper):
        unlinks = lambda first: map(os.unlink, (f"{merged}/big/e{number:07}" for number in range(first, first + tenth)))
        peak = lambda: next((int(line.split()[1]) / 1024 for line in open(f"/proc/{peer.daemon.pid}/status")
                             if line.startswith("VmHWM")), "?") if peer.daemon else "-"
        return [step(total, lambda: os.scandir(merged / "big")), peak(), step(tenth, lambda: unlinks(0)),
                step(tenth, lambda: unlinks(tenth)), peak(), step(1, lambda: [run("rm", "-rf", merged / "tree")]),
                whiteouts(upper)]

    found = measure(args, base, [(peer.name, peer, [base / "million"]) for peer in peers], once)
    forms = "{:.2f} s", "{:.0f} MiB", "{:.2f} s", "{:.2f} s", "{:.0f} MiB", "{:.3f} s", "{}"
    rows = [[peer.name, *([found[peer.name]] if isinstance(found[peer.name], str)
                          else map(median, zip(*found[peer.name]), forms))] for peer in peers]
    said = f"{total:,} empty files in one lower directory, in {base.parent}; medians of {args.rounds}; at most {LIMIT} s a step."
    table("A large directory", said, ["", "list", "peak memory", f"unlink {tenth:,}", f"next {tenth:,}", "peak memory then",
                                      "rm -rf 100 x 100", "left in upper"], rows)

SECTIONS = {"layers": layers, "threads": threads, "copyup-stat": copyup_stat, "bigdir": bigdir}

def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default, said in (
            ("bin", str(HERE.parent / "target/release/plyfs"), "plyfs"),
            ("fo20", "/usr/local/bin/fo20", "fuse-overlayfs 2.0 (passed over if not there)"),
            ("base", "/mnt/bench/scaling", "folder for the layers; bigdir takes /dev/shm if this has too few inodes"),
            ("rounds", 3, "runs of each"), ("only", ",".join(SECTIONS), "sections to print, comma separated"),
            ("plot", "", "write the layers' figures here, as an SVG"), ("layers", "1,16,128,500", "counts of layers"),
            ("seconds", 1.0, "of each run of threads; copyup-stat without takes three times as many"),
            ("gib", 4.0, "size of the file that is copied up, if there is room"),
            ("entries", 1000000, "files of the large directory")):
        parser.add_argument(f"--{name}", type=type(default), default=default, help=said)
    args = parser.parse_args()
    if os.geteuid() != 0 or set(args.only.split(",")) - set(SECTIONS):
        sys.exit(f"scaling.py: run it as root; the sections are {', '.join(SECTIONS)}")
    args.bin, args.layers = str(Path(args.bin).resolve()), [int(many) for many in args.layers.split(",")]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("scaling.py: ended"))     # So that what is mounted goes.
    os.environ |= {"FUSE_OVERLAYFS_NO_PASSTHROUGH": "1", "LIBMOUNT_FORCE_MOUNT2": "always"}
    fo20 = [Peer("fuse-overlayfs 2.0", args.fo20)] if os.access(args.fo20, os.X_OK) else []
    for name in args.only.split(","):
        Path(args.base).mkdir(parents=True, exist_ok=True)
        few = name == "bigdir" and os.statvfs(args.base).f_favail < args.entries * 1.2 + 50000      # Inodes.
        base = Path(tempfile.mkdtemp(prefix="plyfs-scaling-", dir="/dev/shm" if few else args.base))
        try:
            SECTIONS[name](args, base, [Peer("kernel"), *fo20, Peer("plyfs", args.bin)])
        finally:
            # A mount that would not go is not to be walked into.
            if not any(os.path.ismount(merged) for merged in base.glob("run-*/merged")):
                shutil.rmtree(base, ignore_errors=True)

if __name__ == "__main__":
    sys.exit(main())
