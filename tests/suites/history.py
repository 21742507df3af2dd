"""A random history: history.py SEED STEPS DIR changes what is in DIR, step by step, as its user may.

The same seed makes the same steps of the same tree. Times are whole seconds of 2020, as some formats have no parts of them.
"""
import errno
import os
import random
import shutil
import stat
import sys

NAMES = ["a", "b", "c d", "ü", "e.txt", "f" * 120, "-g", "h"]
# What is an object of its own in an archive, a hole, a part of one, and none at all.
SIZES = [0, 1, 511, 4096, 70_000, 300_000]


class History:
    def __init__(self, seed, root):
        self.random = random.Random(seed)
        self.root = root

    def may(self, act, *words):
        """What only root may do, ids that a user namespace lacks, and what OverlayFS without redirects does not."""
        try:
            act(*words)
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.EINVAL, errno.EXDEV):
                raise

    def walk(self):
        dirs, others = [self.root], []
        for at, below, files in os.walk(self.root):
            below.sort()
            for name in sorted(below + files):
                path = os.path.join(at, name)
                is_dir = os.path.isdir(path) and not os.path.islink(path)
                (dirs if is_dir else others).append(path)
        return dirs, others

    def some(self, paths):
        return self.random.choice(paths) if paths else None

    def new(self, dirs):
        """A path below at most five directories, where mostly nothing is yet."""
        near = [path for path in dirs if path.count("/") - self.root.count("/") < 4]
        for _ in range(8):
            path = os.path.join(self.some(near), self.some(NAMES))
            if not os.path.lexists(path):
                break
        return path if self.random.random() < 0.8 else os.path.join(self.some(near), self.some(NAMES))

    def clear(self, path):
        if os.path.isdir(path) and not os.path.islink(path):
            shutil.rmtree(path)
        elif os.path.lexists(path):
            os.unlink(path)

    def fill(self, path, flags):
        with open(path, flags) as file:
            if self.random.random() < 0.2:
                file.seek(self.some([1 << 17, 1 << 20]))
            file.write(self.random.randbytes(self.some(SIZES)))

    def make(self, path):
        kind = self.some(["file"] * 4 + ["dir"] * 4 + ["symlink", "fifo", "device"])
        if kind == "symlink" and os.path.isdir(path):
            # umoci goes on to hide what was in the directory, behind the link, and such a layer is refused.
            kind = "file"
        self.clear(path)
        if kind == "file":
            self.fill(path, "wb")
        elif kind == "dir":
            os.mkdir(path)
        elif kind == "symlink":
            os.symlink(self.some(["a", "../b", "/etc/passwd", "x" * 150]), path)
        elif kind == "fifo":
            os.mkfifo(path)
        else:
            self.may(os.mknod, path, stat.S_IFCHR | 0o620, os.makedev(1, 3))

    def step(self):
        dirs, others = self.walk()
        files = [path for path in others if stat.S_ISREG(os.lstat(path).st_mode)]
        inner = dirs[1:]
        small = [path for path in inner if len(os.listdir(path)) < 3]
        act = self.some(["make"] * 16 + ["write", "append", "append", "unlink", "rmtree", "again", "rename", "rename"] + ["link", "meta"] * 3)
        if act == "make":
            self.make(self.new(dirs))
        elif act in ("write", "append") and files:
            self.fill(self.some(files), "wb" if act == "write" else "ab")
        elif act == "unlink" and others:
            os.unlink(self.some(others))
        elif act == "rmtree" and small:
            shutil.rmtree(self.some(small))
        elif act == "again" and small:
            path = self.some(small)
            shutil.rmtree(path)
            os.mkdir(path)
            self.fill(os.path.join(path, self.some(NAMES)), "wb")
        elif act == "rename" and inner + others:
            old, new = self.some(inner + others), self.new(dirs)
            hides = os.path.islink(old) and os.path.isdir(new)
            if not hides and not (new + "/").startswith(old + "/") and not (old + "/").startswith(new + "/"):
                self.clear(new)
                self.may(os.rename, old, new)
        elif act == "link" and files:
            old, new = self.some(files), self.new(dirs)
            if old != new and not os.path.isdir(new):
                self.clear(new)
                os.link(old, new)
        elif act == "meta" and inner + files:
            self.change(self.some(inner + files))

    def change(self, path):
        is_dir = os.path.isdir(path)
        if self.random.random() < 0.5:
            self.may(os.chown, path, self.some([0, 7, 60_000, 3_000_000]), self.some([0, 8]))
        os.chmod(path, self.some([0o700, 0o755, 0o1777] if is_dir else [0o600, 0o644, 0o4755]))
        # podman leaves a directory the attributes that an earlier layer gave it.
        if not is_dir and self.random.random() < 0.5:
            os.setxattr(path, self.some(["user.a", "user.b"]), self.random.randbytes(self.some([1, 60])))

    def settle(self):
        """Gives everything that has changed a time with whole seconds."""
        dirs, others = self.walk()
        for path in others + dirs[::-1]:
            if os.lstat(path).st_mtime >= 1_600_000_000:
                time = 1_577_836_800 + self.random.randrange(10_000_000)
                os.utime(path, (time, time), follow_symlinks=False)


history = History(int(sys.argv[1]), sys.argv[3])
for _ in range(int(sys.argv[2])):
    history.step()
history.settle()
