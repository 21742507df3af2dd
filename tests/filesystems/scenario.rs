//! One fixed story on every file system: layers with something of everything, and changes to it.

use rustix::fs::{FileType, OFlags, SeekFrom};

use crate::common::stack::Layer;
use crate::common::*;

/// The size of the file whose metadata only is changed.
pub const META: usize = 1 << 16;
/// The size of the sparse file, and where it has data.
const LARGE: usize = 1 << 20;
const DATA: [u64; 2] = [0, 1 << 19];

/// What the lower layer on the file system in question holds, as far as that has such things.
pub fn fill(layer: &Layer) {
    layer.file("file", "lower").file("meta", vec![b'm'; META]).file("gone", "x").file("again/old", "x");
    layer.file("links/a", "link").file("dir/f", "x").file("dir/sub/deep", "x").file("marked", "x").file("sparse", "");
    let _ = layer.link("links/a", "links/b");
    let _ = layer.mknod("fifo", FileType::Fifo, 0o644, 0);
    let _ = layer.symlink("file", "symlink");
    let _ = layer.set_xattr("marked", "user.note", b"lower");
    layer.truncate("sparse", LARGE as u64).unwrap();
    DATA.iter().for_each(|at| layer.pwrite("sparse", *at, &[b's'; 4096]).unwrap());
    layer.age();
}

/// Hides `hidden` and `cover/below` of the layer below; says how, as the file system allows it.
pub fn hide(layer: &Layer) -> String {
    layer.file("cover/own", "x");
    let opaque = layer.set_xattr("cover", format!("{}opaque", stack::prefix()), b"y");
    let device = layer.mknod("hidden", FileType::CharacterDevice, 0, 0);
    if opaque.is_err() {
        return if device.is_ok() { "device" } else { "nothing" }.into();
    }
    if device.is_err() {
        let prefix = stack::prefix();
        layer.file("hidden", "").with_xattr("hidden", &format!("{prefix}whiteout"), b"");
        layer.with_xattr("", &format!("{prefix}opaque"), b"x");
    }
    format!("{}, opaque", if device.is_ok() { "device" } else { "marked file" })
}

/// What stands below the lower layer in question.
pub fn fill_base(layer: &Layer) {
    layer.file("hidden", "x").file("cover/below", "x").file("base", "x").file("dir/base", "x").age();
}

/// The inode numbers of what is there before and after the changes; `dir` is the name of the directory that is renamed.
pub fn numbers(tree: &Tree, dir: &str) -> Vec<u64> {
    let names = ["file", "meta", "links", "marked", "sparse", "fifo", "symlink", "base", "cover", "", dir];
    let below = ["f", "sub", "sub/deep", "base"].map(|name| format!("{dir}/{name}"));
    let names = names.iter().copied().chain(below.iter().map(String::as_str));
    let number = |name| match tree.stat(name) {
        Ok(st) => st.st_ino,
        // The file system has no such objects.
        Err(Errno::NOENT) if ["fifo", "symlink"].contains(&name) => 0,
        Err(e) => panic!("{name}: {e:?}"),
    };
    names.map(number).collect()
}

/// What the changes gave.
pub struct Changed {
    /// Step by step, to compare with another.
    pub steps: Vec<(&'static str, String)>,
    /// What `dir` is called now.
    pub dir: &'static str,
}

impl Changed {
    /// The outcome of one step.
    pub fn step(&self, name: &str) -> &str {
        &self.steps.iter().find(|step| step.0 == name).unwrap().1
    }
}

fn outcome(result: rustix::io::Result<()>) -> String {
    result.map_or_else(code, |()| "ok".into())
}

/// Changes something of everything.
pub fn change(tree: &Tree) -> Changed {
    let mut steps = Vec::new();
    let mut step = |name, result| steps.push((name, outcome(result)));
    step("chmod", tree.chmod("meta", 0o600));
    step("append", tree.append("file", "+upper"));
    let rename = tree.rename("dir", "moved");
    step("rename of a directory", rename);
    step("append to a hard link", tree.append("links/a", "+upper"));
    step("remove a directory", tree.remove_all("again"));
    step("make it again", tree.mkdir("again", 0o755));
    step("write into it", tree.write("again/new", "x"));
    step("unlink", tree.unlink("gone"));
    step("set an xattr", tree.set_xattr("marked", "user.more", b"upper"));
    step("chmod beside an xattr", tree.chmod("marked", 0o640));
    step("write into a hole", tree.pwrite("sparse", 1 << 18, b"upper"));
    step("times of a symlink", tree.utimes("symlink", tree::OLD));
    step("chmod of a fifo", tree.chmod("fifo", 0o600));
    Changed { steps, dir: if rename.is_ok() { "moved" } else { "dir" } }
}

/// Where data stands in a file, as programs are told.
fn data(tree: &Tree, path: &str) -> Vec<(u64, u64)> {
    let fd = tree.open(path, OFlags::RDONLY).unwrap();
    let (mut found, mut at) = (Vec::new(), 0);
    while let Ok(start) = rustix::fs::seek(&fd, SeekFrom::Data(at)) {
        let end = rustix::fs::seek(&fd, SeekFrom::Hole(start)).unwrap();
        found.push((start, end));
        at = end;
    }
    found
}

/// Whether the holes of the sparse file are still there after the write into one, and told to programs.
pub fn holes(tree: &Tree) -> &'static str {
    let half = LARGE as u64 / 2;
    let told: u64 = data(tree, "sparse").iter().map(|(start, end)| end - start).sum();
    let stored = tree.stat("sparse").unwrap().st_blocks as u64 * 512;
    match (told < half, stored < half) {
        (true, _) => "kept",
        (false, true) => "kept, not told",
        (false, false) => "filled",
    }
}

/// The view without the hard links: which of their names is changed is judged apart.
pub fn view(tree: &Tree, foreign: bool) -> View {
    let mut view = View::of(tree, Walk { times: true, foreign, without_links: true, ..Walk::default() });
    view.objects.retain(|path, _| !path.starts_with(b"links"));
    view
}

/// Whether a change through one name is seen under the other, and both are the inode that they were.
pub fn links(tree: &Tree, number: u64) -> &'static str {
    let of = |name| tree.stat(name).map(|st| (st.st_ino, st.st_nlink)).unwrap();
    let same = (of("links/a"), of("links/b")) == ((number, 2), (number, 2)) && tree.text("links/b") == "link+upper";
    if same { "one file" } else { "parted" }
}
