//! What a command gets to see at each mount of the machine.

use std::path::{Path, PathBuf};

use crate::base::Result;
use crate::sys::mounts::{self, MountEntry};
use crate::sys::namespace;

/// What was asked for.
#[derive(Debug, Clone, Default)]
pub struct Wishes {
    /// Only these directories are covered; empty: all file systems.
    pub on: Vec<PathBuf>,
    /// Writes go through here.
    pub through: Vec<PathBuf>,
    /// Nothing is shown here.
    pub hidden: Vec<PathBuf>,
}

/// One place, and what is done there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Spot {
    /// A union over the directory: changes are kept apart.
    Union(PathBuf),
    /// The tree as it is, with all below it.
    Through(PathBuf),
    /// The same, and nobody can write: no union can stand on a file.
    ReadOnly(PathBuf),
    /// Nothing.
    Hidden(PathBuf),
}

impl Spot {
    /// Where it is.
    pub fn at(&self) -> &Path {
        match self {
            Self::Union(at) | Self::Through(at) | Self::ReadOnly(at) | Self::Hidden(at) => at,
        }
    }
}

/// Whether something is a directory, and whether its file system is read-only.
type Look<'a> = (&'a dyn Fn(&Path) -> bool, &'a dyn Fn(&Path) -> bool);

/// The places in the order in which they are mounted: what lies below comes later.
#[derive(Debug)]
pub struct Ground {
    /// The places.
    pub spots: Vec<Spot>,
    /// The first one is a root of its own, else all are mounted where they are.
    pub has_root: bool,
}

/// File systems that hold no files of anybody's.
const PSEUDO: [&str; 24] = [
    "autofs",
    "binfmt_misc",
    "bpf",
    "cgroup",
    "cgroup2",
    "configfs",
    "debugfs",
    "devpts",
    "devtmpfs",
    "efivarfs",
    "fusectl",
    "hugetlbfs",
    "mqueue",
    "nfsd",
    "nsfs",
    "pipefs",
    "proc",
    "pstore",
    "rpc_pipefs",
    "securityfs",
    "selinuxfs",
    "smackfs",
    "sysfs",
    "tracefs",
];
/// Where file systems in memory hold devices, sockets and locks of the running machine.
const OF_THE_MACHINE: [&str; 3] = ["/dev", "/run", "/sys"];

impl Ground {
    /// Looks at the mounts of this process.
    ///
    /// # Errors
    /// Those of reading `/proc/self/mountinfo`.
    pub fn survey(wishes: &Wishes) -> Result<Self> {
        let mut wishes = wishes.clone();
        wishes.on.sort();
        wishes.on.dedup();
        if wishes.on.iter().any(|dir| dir == Path::new("/")) {
            // That is all there is.
            wishes.on.clear();
        }
        let is_dir = |at: &Path| at.is_dir();
        let is_read_only = |at: &Path| namespace::is_read_only(at).unwrap_or(false);
        Ok(Self::of(&mounts::table()?, &wishes, (&is_dir, &is_read_only)))
    }

    fn of(table: &[MountEntry], wishes: &Wishes, look: Look<'_>) -> Self {
        let has_root = wishes.on.is_empty();
        let mut spots: Vec<Spot> = wishes.on.iter().cloned().map(Spot::Union).collect();
        let is_in = |at: &Path, dirs: &[PathBuf]| dirs.iter().any(|dir| at.starts_with(dir));
        for mount in seen(table) {
            let at = &mount.at;
            let is_wished = has_root || (is_in(at, &wishes.on) && !wishes.on.contains(at));
            if is_wished && !is_in(at, &wishes.through) && !is_in(at, &wishes.hidden) {
                spots.extend(spot(mount, &spots, look));
            }
        }
        spots.extend(wishes.through.iter().cloned().map(Spot::Through));
        spots.extend(wishes.hidden.iter().cloned().map(Spot::Hidden));
        // Stable: what was asked for comes after what the machine has at the same place.
        spots.sort_by(|one, two| one.at().cmp(two.at()));
        Self { spots, has_root }
    }
}

/// The mounts that are seen, by path: one that lies under another, or below a directory that another covers, is not.
fn seen(table: &[MountEntry]) -> Vec<&MountEntry> {
    let mut by_path: Vec<&MountEntry> = table.iter().collect();
    by_path.sort_by(|one, two| one.at.cmp(&two.at));
    let mut seen: Vec<&MountEntry> = Vec::new();
    for group in by_path.chunk_by(|one, two| one.at == two.at) {
        let Some(at) = group.first().map(|mount| &mount.at) else { continue };
        let below =
            seen.iter().filter(|mount| at.starts_with(&mount.at)).max_by_key(|mount| mount.at.as_os_str().len());
        let is_lowest = |mount: &&&MountEntry| match below {
            Some(below) => mount.parent == below.id,
            None => !table.iter().any(|other| other.id == mount.parent && other.id != mount.id),
        };
        let Some(mut top) = group.iter().find(is_lowest) else { continue };
        while let Some(above) = group.iter().find(|mount| mount.parent == top.id && mount.id != top.id) {
            top = above;
        }
        seen.push(top);
    }
    seen
}

/// What is done at a mount, if anything: what lies in a tree that is shown as it is is there already.
fn spot(mount: &MountEntry, before: &[Spot], (is_dir, is_read_only): Look<'_>) -> Option<Spot> {
    let at = mount.at.clone();
    let nearest = before.iter().filter(|spot| at.starts_with(spot.at())).max_by_key(|spot| spot.at().as_os_str().len());
    let in_memory = ["tmpfs", "ramfs"].contains(&&*mount.kind);
    let of_the_machine = in_memory && OF_THE_MACHINE.iter().any(|dir| at.starts_with(dir));
    if at != Path::new("/") && (PSEUDO.contains(&&*mount.kind) || of_the_machine || is_read_only(&at)) {
        return match nearest {
            Some(Spot::Through(_)) => None,
            _ => Some(Spot::Through(at)),
        };
    }
    Some(if is_dir(&at) { Spot::Union(at) } else { Spot::ReadOnly(at) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(lines: &[(u64, u64, &str, &str)], wishes: &Wishes) -> Vec<Spot> {
        let entry = |(id, parent, at, kind): &(u64, u64, &str, &str)| MountEntry {
            id: *id,
            parent: *parent,
            device: 0,
            root: "/".into(),
            at: at.into(),
            kind: (*kind).to_owned(),
            source: "x".into(),
            options: Vec::new(),
        };
        let table: Vec<_> = lines.iter().map(entry).collect();
        let is_dir = |at: &Path| at != Path::new("/etc/hosts");
        Ground::of(&table, wishes, (&is_dir, &|at| at == Path::new("/snap"))).spots
    }

    const MACHINE: [(u64, u64, &str, &str); 15] = [
        (3, 2, "/proc", "proc"),
        (4, 3, "/proc/sys/fs/binfmt_misc", "binfmt_misc"),
        (2, 1, "/", "ext4"),
        (5, 2, "/dev", "devtmpfs"),
        (6, 5, "/dev/shm", "tmpfs"),
        (7, 2, "/run", "tmpfs"),
        (8, 7, "/run/media/stick", "ext4"),
        (9, 2, "/home", "xfs"),
        (10, 9, "/home/u/net", "nfs4"),
        (11, 2, "/home/hidden", "ext4"),
        (12, 2, "/etc/hosts", "ext4"),
        (13, 2, "/snap", "squashfs"),
        (14, 2, "/tmp", "ext4"),
        (16, 14, "/tmp/hidden", "ext4"),
        (15, 14, "/tmp", "tmpfs"),
    ];

    fn union(at: &str) -> Spot {
        Spot::Union(at.into())
    }

    fn through(at: &str) -> Spot {
        Spot::Through(at.into())
    }

    #[test]
    fn each_file_system_that_holds_files_gets_a_union() {
        let expected = [
            union("/"),
            through("/dev"),
            Spot::ReadOnly("/etc/hosts".into()),
            union("/home"),
            union("/home/u/net"),
            through("/proc"),
            through("/run"),
            union("/run/media/stick"),
            through("/snap"),
            union("/tmp"),
        ];
        assert_eq!(of(&MACHINE, &Wishes::default()), expected);
    }

    #[test]
    fn what_was_asked_for_counts() {
        let on = Wishes { on: vec!["/home".into()], ..Wishes::default() };
        assert_eq!(of(&MACHINE, &on), [union("/home"), union("/home/u/net")]);
        let wishes = Wishes {
            on: vec!["/home/u".into()],
            through: vec!["/home/u/net".into()],
            hidden: vec!["/home/u/.ssh".into()],
        };
        let expected = [union("/home/u"), Spot::Hidden("/home/u/.ssh".into()), through("/home/u/net")];
        assert_eq!(of(&MACHINE, &wishes), expected);
    }
}
