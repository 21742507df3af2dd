//! A tree as everyone sees it, in a form that two trees can be compared in.

use std::collections::{BTreeMap, BTreeSet, HashMap, hash_map::DefaultHasher};
use std::ffi::OsStr;
use std::fmt::{self, Write as _};
use std::hash::{Hash, Hasher};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{Dir, FileType, OFlags, Stat};
use rustix::io::Errno;

use super::Tree;

/// When an object was changed, as far as two runs can agree on it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Changed {
    /// An old time, set on purpose.
    At(i64, i64),
    /// During the test.
    Lately,
    /// Not known (by a model); equal to everything.
    Whenever,
}

/// Whether inode numbers are judged.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub enum Numbers {
    #[default]
    Judged,
    NotJudged,
}

/// What to look at.
#[derive(Clone, Copy, Default)]
pub struct Walk {
    /// Compare modification times.
    pub times: bool,
    /// A mount by another program of layers that plyfs has written: leave out the private xattrs that it does not hide,
    /// and do not judge its inode numbers.
    pub foreign: bool,
    /// Only its inode numbers are not judged.
    pub numbers: Numbers,
    /// Leave out link counts and which names are one inode.
    pub without_links: bool,
}

/// Everything one can see of an object besides its name.
#[derive(Clone, PartialEq, Eq)]
pub struct Object {
    pub kind: FileType,
    pub mode: u32,
    pub owner: (u32, u32),
    /// Of a regular file.
    pub size: u64,
    /// A hash of a file's content, or the errno of reading it.
    pub content: Result<u64, i32>,
    pub target: Vec<u8>,
    pub rdev: u64,
    /// Of all but directories: the kernel's OverlayFS counts 1 for a merged directory.
    pub nlink: u64,
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    pub changed: Changed,
}

impl fmt::Debug for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {:o} {:?} links {}", self.kind, self.mode, self.owner, self.nlink)?;
        match self.kind {
            FileType::RegularFile => write!(f, " size {} content {:x?}", self.size, self.content)?,
            FileType::Symlink => write!(f, " -> {}", self.target.escape_ascii())?,
            FileType::CharacterDevice | FileType::BlockDevice => write!(f, " rdev {:x}", self.rdev)?,
            _ => {}
        }
        for (name, value) in &self.xattrs {
            write!(f, " {}={}", name.escape_ascii(), value.escape_ascii())?;
        }
        write!(f, " {:?}", self.changed)
    }
}

/// A whole tree.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct View {
    /// By path; the root is the empty one.
    pub objects: BTreeMap<Vec<u8>, Object>,
    /// The names of each inode that has more than one.
    pub same: BTreeSet<BTreeSet<Vec<u8>>>,
    /// What no tree may show: a name without an object, d_ino other than st_ino, one number for two objects.
    pub wrong: Vec<String>,
}

/// A content's fingerprint.
pub fn fingerprint(content: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    content.hash(&mut hasher);
    hasher.finish()
}

fn private(name: &[u8]) -> bool {
    const OURS: [&str; 6] = [
        "trusted.overlay.",
        "user.overlay.",
        "user.fuseoverlayfs.",
        "trusted.plyfs.",
        "user.plyfs.",
        "user.containers.",
    ];
    OURS.iter().any(|p| name.starts_with(p.as_bytes()))
}

/// Times before this are old ones, set on purpose: 2020.
const RECENT: i64 = 1_577_836_800;

impl View {
    /// Walks the tree.
    pub fn of(tree: &Tree, walk: Walk) -> View {
        let mut view = View::default();
        let mut numbers: HashMap<(u64, u64), BTreeSet<Vec<u8>>> = HashMap::new();
        let root = tree.stat("").unwrap();
        view.add(tree, b"", &root, walk, &mut numbers);
        view.descend(tree, b"", walk, &mut numbers);
        for (number, names) in numbers {
            if names.len() < 2 {
                continue;
            }
            let mut objects: Vec<_> = names.iter().map(|n| &view.objects[n]).collect();
            objects.dedup();
            if objects.len() > 1 || objects[0].kind == FileType::Directory {
                view.wrong.push(format!("one inode {number:?} for {:?}: {objects:?}", show(&names)));
            }
            // A hard link whose count is too low looks like a plain file to tar and rsync.
            if objects[0].nlink < names.len() as u64 && !walk.without_links {
                view.wrong.push(format!("link count {} for {:?}", objects[0].nlink, show(&names)));
            }
            if !walk.without_links {
                view.same.insert(names);
            }
        }
        view
    }

    fn descend(&mut self, tree: &Tree, dir: &[u8], walk: Walk, numbers: &mut HashMap<(u64, u64), BTreeSet<Vec<u8>>>) {
        let listing = match tree.open(OsStr::from_bytes(dir), OFlags::RDONLY | OFlags::DIRECTORY).and_then(Dir::new) {
            Ok(listing) => listing,
            // Closed to us: the same in both trees.
            Err(Errno::ACCESS) => return,
            Err(e) => return self.wrong.push(format!("cannot list {}: {e:?}", dir.escape_ascii())),
        };
        let mut seen = BTreeSet::new();
        for entry in listing {
            let entry = match entry {
                Ok(entry) => entry,
                Err(e) => return self.wrong.push(format!("readdir of {}: {e:?}", dir.escape_ascii())),
            };
            let name = entry.file_name().to_bytes();
            if name == b"." || name == b".." {
                continue;
            }
            let path = if dir.is_empty() { name.to_vec() } else { [dir, b"/", name].concat() };
            let shown = path.escape_ascii().to_string();
            if !seen.insert(name.to_vec()) {
                self.wrong.push(format!("{shown} is listed twice"));
                continue;
            }
            let st = match tree.stat(OsStr::from_bytes(&path)) {
                Ok(st) => st,
                Err(e) => {
                    self.wrong.push(format!("{shown} is listed, but stat says {e:?}"));
                    continue;
                }
            };
            if entry.ino() != st.st_ino && !walk.foreign && walk.numbers == Numbers::Judged {
                self.wrong.push(format!("{shown}: d_ino {} st_ino {}", entry.ino(), st.st_ino));
            }
            let kind = FileType::from_raw_mode(st.st_mode);
            if entry.file_type() != FileType::Unknown && entry.file_type() != kind {
                self.wrong.push(format!("{shown}: listed as {:?}, is {kind:?}", entry.file_type()));
            }
            self.add(tree, &path, &st, walk, numbers);
            if kind == FileType::Directory {
                self.descend(tree, &path, walk, numbers);
            }
        }
    }

    fn add(
        &mut self,
        tree: &Tree,
        path: &[u8],
        st: &Stat,
        walk: Walk,
        numbers: &mut HashMap<(u64, u64), BTreeSet<Vec<u8>>>,
    ) {
        let name = OsStr::from_bytes(path);
        let kind = FileType::from_raw_mode(st.st_mode);
        let (is_file, is_dir) = (kind == FileType::RegularFile, kind == FileType::Directory);
        let device = matches!(kind, FileType::CharacterDevice | FileType::BlockDevice);
        let mut xattrs = BTreeMap::new();
        for key in tree.xattrs(name).unwrap_or_default() {
            if walk.foreign && private(&key) {
                continue;
            }
            let value = tree.xattr(name, OsStr::from_bytes(&key)).unwrap_or_else(|e| format!("{e:?}").into_bytes());
            xattrs.insert(key, value);
        }
        let object = Object {
            kind,
            mode: st.st_mode & 0o7777,
            owner: (st.st_uid, st.st_gid),
            size: if is_file { st.st_size as u64 } else { 0 },
            content: match is_file {
                true => tree.read(name).map(|c| fingerprint(&c)).map_err(Errno::raw_os_error),
                false => Ok(0),
            },
            target: if kind == FileType::Symlink { tree.readlink(name).unwrap_or_default() } else { Vec::new() },
            rdev: if device { st.st_rdev } else { 0 },
            nlink: if is_dir || walk.without_links { 0 } else { st.st_nlink },
            xattrs,
            changed: match walk.times {
                true if st.st_mtime < RECENT => Changed::At(st.st_mtime, st.st_mtime_nsec as i64),
                true => Changed::Lately,
                false => Changed::Whenever,
            },
        };
        self.objects.insert(path.to_vec(), object);
        numbers.entry((st.st_dev, st.st_ino)).or_default().insert(path.to_vec());
    }

    /// What is wrong with this view by itself.
    pub fn assert_sound(&self) -> &Self {
        assert!(self.wrong.is_empty(), "{:#?}", self.wrong);
        self
    }

    /// The differences in words with what is wrong in this view by itself, or `None`. What is wrong in the other one, an
    /// oracle (the kernel's d_ino is not always right after a rename), does not count.
    pub fn difference(&self, other: &View) -> Option<String> {
        let mut text = String::new();
        let paths: BTreeSet<_> = self.objects.keys().chain(other.objects.keys()).collect();
        for path in paths {
            let line = match (self.objects.get(path), other.objects.get(path)) {
                (Some(one), Some(two)) if equal(one, two) => continue,
                (one, two) => format!("{}:\n    {one:?}\n    {two:?}", path.escape_ascii()),
            };
            let _ = writeln!(text, "  {line}");
        }
        for names in self.same.symmetric_difference(&other.same) {
            let which = if self.same.contains(names) { "first" } else { "second" };
            let _ = writeln!(text, "  one inode only in the {which}: {:?}", show(names));
        }
        for wrong in &self.wrong {
            let _ = writeln!(text, "  {wrong}");
        }
        (!text.is_empty()).then_some(text)
    }

    /// Fails with the differences.
    pub fn assert_same(&self, other: &View, what: &str) {
        if let Some(difference) = self.difference(other) {
            panic!("{what}:\n{difference}");
        }
    }
}

fn equal(one: &Object, two: &Object) -> bool {
    let free = one.changed == Changed::Whenever || two.changed == Changed::Whenever;
    one == &Object { changed: if free { one.changed } else { two.changed }, ..two.clone() }
}

fn show(names: &BTreeSet<Vec<u8>>) -> Vec<String> {
    names.iter().map(|n| n.escape_ascii().to_string()).collect()
}

/// Whether the layer at `root` was left as it was: its view with times, before and after.
pub fn layer(root: &Path) -> View {
    View::of(&Tree::new(root), Walk { times: true, ..Walk::default() })
}
