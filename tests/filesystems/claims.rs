//! What each file system gives as a layer: the tables of docs/layers.md, checked by the tests beside.

/// A column of a table.
pub struct Column {
    /// Its name here and its heading in docs/layers.md.
    pub name: &'static str,
    /// An option without which the binary under test cannot give it.
    pub needs: Option<&'static str>,
}

const fn column(name: &'static str) -> Column {
    Column { name, needs: None }
}

const fn needing(name: &'static str, option: &'static str) -> Column {
    Column { name, needs: Some(option) }
}

/// One table: columns, and what stands in them by file system.
pub struct Table<const N: usize> {
    pub heading: &'static str,
    pub columns: [Column; N],
    pub rows: &'static [(&'static str, [&'static str; N])],
}

pub const RENAME: &str = "a directory renamed";
pub const CHMOD: &str = "chmod copies";
pub const LINKS: &str = "hard links";
pub const NUMBERS: &str = "inode numbers";
pub const HOLES: &str = "holes";
pub const HIDES: &str = "hides by";
pub const MARKS: &str = "marks";
pub const WHITEOUTS: &str = "whiteouts";
pub const REFLINK: &str = "a copy shares its blocks";
pub const KERNEL: &str = "the kernel beside it";
pub const READ: &str = "the kernel reads it";

/// In the first column: such a layer cannot be mounted.
pub const REFUSED: &str = "refused";

pub const LOWERS: Table<7> = Table {
    heading: "lower layer on",
    columns: [
        column(HIDES),
        needing(RENAME, "redirect_dir=on"),
        needing(CHMOD, "metacopy=on"),
        needing(LINKS, "index=on"),
        needing(NUMBERS, "index=on"),
        column(HOLES),
        column(KERNEL),
    ],
    rows: &[
        ("ext4", ["device, opaque", "yes", "no data", "one file", "kept", "kept", "same"]),
        ("xfs", ["device, opaque", "yes", "no data", "one file", "kept", "kept", "same"]),
        ("btrfs", ["device, opaque", "yes", "no data", "one file", "kept", "kept", "same"]),
        ("tmpfs", ["device, opaque", "yes", "no data", "one file", "kept", "kept", "same"]),
        ("squashfs", ["device, opaque", "yes", "no data", "one file", "kept", "kept", "same"]),
        // mkfs.erofs stores the zeros of holes.
        ("erofs", ["device, opaque", "yes", "no data", "one file", "kept", "filled", "same"]),
        ("vfat", [REFUSED, "", "", "", "", "", "refuses"]),
        ("exfat", [REFUSED, "", "", "", "", "", "refuses"]),
        ("ntfs3", ["device, opaque", "yes", "no data", "one file", "kept", "filled", "same"]),
        ("9p", ["nothing", "yes", "no data", "parted", "new", "filled", "same"]),
        ("virtiofs", ["device", "yes", "no data", "parted", "new", "kept", "same"]),
        ("NFS 3", ["device", "yes", "no data", "one file", "kept", "filled", "same"]),
        ("NFS 4.2", ["device", "yes", "no data", "one file", "kept", "kept", "same"]),
        // A number that was free there may come to name another file: good enough for st_ino, not for the index.
        ("plyfs", ["device, opaque", "yes", "no data", "parted", "kept", "kept", "same"]),
        // Makes no 0/0 device, and has no file handles that last (the kernel's own overlay on it loses the same).
        ("OverlayFS", ["marked file, opaque", "yes", "no data", "parted", "new", "kept", "same"]),
    ],
};

pub const UPPERS: Table<10> = Table {
    heading: "upper layer on",
    columns: [
        column(MARKS),
        column(WHITEOUTS),
        needing(RENAME, "redirect_dir=on"),
        needing(CHMOD, "metacopy=on"),
        needing(LINKS, "index=on"),
        needing(NUMBERS, "index=on"),
        column(HOLES),
        column(REFLINK),
        column(KERNEL),
        column(READ),
    ],
    rows: &[
        ("ext4", ["trusted", "device", "yes", "no data", "one file", "kept", "kept", "no", "same", "yes"]),
        ("xfs", ["trusted", "device", "yes", "no data", "one file", "kept", "kept", "yes", "same", "yes"]),
        ("btrfs", ["trusted", "device", "yes", "no data", "one file", "kept", "kept", "yes", "same", "yes"]),
        ("tmpfs", ["trusted", "device", "yes", "no data", "one file", "kept", "kept", "no", "same", "yes"]),
        ("plyfs", ["trusted", "device", "yes", "no data", "one file", "kept", "kept", "no", "same", "yes"]),
        ("vfat", [REFUSED, "", "", "", "", "", "", "", "refuses", ""]),
        ("exfat", [REFUSED, "", "", "", "", "", "", "", "refuses", ""]),
        // A file that is made longer gets its blocks at once; the kernel takes the layer and cannot replace a directory.
        ("ntfs3", ["trusted", "device", "yes", "all data", "one file", "kept", "filled", "no", "fails", "yes"]),
        ("9p", ["user", "marked file", "EXDEV", "all data", "parted", "new", "kept, not told", "no", "fails", "no"]),
        ("virtiofs", ["user", "device", "EXDEV", "all data", "one file", "new", "kept", "no", "refuses", "no"]),
        ("NFS 3", ["none", "device", "EXDEV", "all data", "parted", "new", "kept, not told", "no", "refuses", "no"]),
        ("NFS 4.2", ["user", "device", "EXDEV", "all data", "one file", "new", "kept", "no", "refuses", "no"]),
        // mknod(2) of a 0/0 device is EPERM; there are no file handles for an index.
        ("OverlayFS", ["trusted", "marked file", "yes", "no data", "parted", "kept", "kept", "no", "refuses", "yes"]),
        // `bindfs --xattr-none`: no attributes, no flags of rename, no SEEK_DATA; opaque directories hold `.wh..wh..opq`,
        // which the kernel does not know.
        (
            "bindfs on ext4",
            ["none", "device", "EXDEV", "all data", "parted", "new", "kept, not told", "no", "refuses", "no"],
        ),
        // And no 0/0 devices.
        (
            "bindfs on OverlayFS",
            ["none", ".wh. file", "EXDEV", "all data", "parted", "new", "kept, not told", "no", "refuses", "no"],
        ),
    ],
};

impl<const N: usize> Table<N> {
    /// As it stands in docs/layers.md.
    pub fn markdown(&self) -> String {
        let heads: Vec<_> = self.columns.iter().map(|column| column.name).collect();
        let mut text = format!("| {} | {} |\n|{}\n", self.heading, heads.join(" | "), "---|".repeat(N + 1));
        for (system, gives) in self.rows {
            text += &format!("| {system} | {} |\n", gives.join(" | "));
        }
        text
    }
}
