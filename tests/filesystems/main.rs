//! Layers on the file systems that people have: one story on each, while mounted, after a remount, and beside the
//! kernel's OverlayFS. `claims` says what each gives; `PLYFS_UPDATE_DOCS=1` writes that into docs/layers.md.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

#[path = "../common/mod.rs"]
mod common;

mod claims;
mod nested;
mod scenario;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use claims::*;
use common::stack::Layer;
use common::systems::Made;
use common::*;
use rustix::fs::{FileType, OFlags};

/// One test at a time: a leg's namespace keeps the mounts that it finds, and the kernel then says of an upper layer that
/// it mounts again that it is in use.
pub fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Rows of the tables that need a file system which most kernels have as a module only, or a server: the machine of
/// `tests/suites/filesystems.sh` has them.
const ELSEWHERE: [&str; 7] = ["vfat", "exfat", "ntfs3", "9p", "virtiofs", "NFS 3", "NFS 4.2"];

/// Where such file systems are mounted: `PLYFS_FILESYSTEMS='vfat=/mnt/vfat;NFS 3=/mnt/nfs'`. Only their rows run then.
fn given() -> BTreeMap<String, PathBuf> {
    let given = std::env::var("PLYFS_FILESYSTEMS").unwrap_or_default();
    let pairs = given.split(';').filter_map(|pair| pair.split_once('='));
    pairs.map(|(name, at)| (name.to_owned(), PathBuf::from(at))).collect()
}

/// The rows that can run here.
fn rows<const N: usize>(table: &Table<N>) -> Vec<&'static str> {
    let given = given();
    let names = table.rows.iter().map(|row| row.0);
    if !given.is_empty() {
        return names.filter(|name| given.contains_key(*name)).collect();
    }
    say_skipped(&format!("{}: they are in the machine of tests/suites/filesystems.sh", ELSEWHERE.join(", ")));
    names.filter(|name| !ELSEWHERE.contains(name)).collect()
}

/// A file system by its name in the tables.
fn system(name: &str, scratch: &Scratch) -> Made {
    match given().get(name) {
        Some(at) => Ok(System::within(at)),
        None => System::native(name, scratch),
    }
}

/// What was seen, by column.
type Seen = BTreeMap<&'static str, String>;

/// What the kernel's OverlayFS gives over its own remount; no columns of the tables.
const KERNEL_LINKS: &str = "hard links in the kernel";
const KERNEL_NUMBERS: &str = "inode numbers in the kernel";
/// The best that those columns can say.
const BEST: [&str; 2] = ["one file", "kept"];

/// The kernel's index takes the handles of a FUSE file system for good, which name whatever has the number at the time.
const KERNEL_TRUSTS: [(&str, &str); 3] = [("plyfs", LINKS), ("virtiofs", LINKS), ("virtiofs", NUMBERS)];

/// Layers that all can be mounted in the same way, and where.
struct Layers {
    lowers: String,
    upper: Layer,
    work: PathBuf,
    at: PathBuf,
}

impl Layers {
    /// `lowers` with an upper and workdir named after `who` in `upper`, to be mounted in `scratch`.
    fn new(lowers: &[&Path], upper: &Path, scratch: &Scratch, who: &str) -> Self {
        let lowers: Vec<_> = lowers.iter().map(|l| l.to_str().unwrap()).collect();
        let dir = |name: &str| {
            let dir = upper.join(format!("{who}-{name}"));
            std::fs::create_dir(&dir).unwrap();
            dir
        };
        let (upper, work) = (Layer::new(dir("upper")), dir("work"));
        Layers { lowers: lowers.join(":"), upper, work, at: scratch.dir(&format!("{who}-merged")) }
    }

    fn options(&self, more: &str) -> String {
        let (lowers, upper, work) = (&self.lowers, self.upper.root().display(), self.work.display());
        format!("lowerdir={lowers},upperdir={upper},workdir={work},xino=on{more}")
    }
}

/// What the kernel is mounted with beside a mount that did, or did not, rename the directory of a lower layer: that is a
/// claim of its own. Hard links plyfs keeps together in any case while mounted.
fn features(changed: &scenario::Changed) -> String {
    let redirect = if changed.dir == "moved" { "redirect_dir=on,metacopy=on" } else { "redirect_dir=nofollow" };
    format!(",index=on,{redirect}")
}

/// The story on the layers; what it gave by column.
fn observe(ours: &Layers, theirs: &Layers, scratch: &Scratch) -> Seen {
    let mut seen = Seen::new();
    let mut mount = match Mount::try_with(&ours.options(""), &ours.at, &scratch.path().join("log")) {
        Ok(mount) => mount,
        Err(why) => return refused(theirs, &why),
    };
    let before = scenario::view(&mount, false);
    let (numbers, linked) = (scenario::numbers(&mount, "dir"), mount.stat("links/a").unwrap().st_ino);
    let changed = scenario::change(&mount);
    seen.insert(RENAME, changed.step("rename of a directory").replace("ok", "yes"));
    let here = scenario::numbers(&mount, changed.dir);
    assert_eq!(here, numbers, "an inode number has changed while mounted");
    assert_eq!(scenario::links(&mount, linked), "one file", "while mounted: {}", ours.lowers);
    // A block of its own for the attributes may count there.
    let bytes = ours.upper.stat("meta").unwrap().st_blocks * 512;
    seen.insert(CHMOD, if bytes < scenario::META as i64 / 2 { "no data" } else { "all data" }.into());
    seen.insert(HOLES, scenario::holes(&mount).into());
    let after = scenario::view(&mount, false);
    after.assert_sound();
    beside_the_kernel(theirs, &before, &changed, &after, &mut seen);
    mount.remount();
    scenario::view(&mount, false).assert_same(&after, "changed by the remount (after, before)");
    seen.insert(LINKS, scenario::links(&mount, linked).into());
    seen.insert(NUMBERS, kept(scenario::numbers(&mount, changed.dir) == numbers));
    drop(mount);
    seen.insert(MARKS, marks(&ours.upper));
    seen.insert(WHITEOUTS, whiteout(&ours.upper, "gone"));
    seen.insert(READ, read_by_the_kernel(ours, &after, scratch));
    seen
}

/// What stands in a row of a file system that no layer can be on.
fn refused(theirs: &Layers, why: &str) -> Seen {
    let lines = why.matches("plyfs: ").count();
    assert_eq!(lines, 1, "refused, but not in one line: {why}");
    println!("refused: {why}");
    let kernel = if Kernel::with(&theirs.options(""), &theirs.at).is_ok() { "takes it" } else { "refuses" };
    Seen::from([(HIDES, REFUSED.into()), (MARKS, REFUSED.into()), (KERNEL, kernel.into())])
}

/// The same story on the kernel's OverlayFS gives the same results and the same view.
fn beside_the_kernel(theirs: &Layers, before: &View, changed: &scenario::Changed, after: &View, seen: &mut Seen) {
    let Ok(kernel) = Kernel::with(&theirs.options(&features(changed)), &theirs.at) else {
        seen.insert(KERNEL, "refuses".into());
        return;
    };
    before.assert_same(&scenario::view(&kernel, true), "before the changes (tested, kernel)");
    let (numbers, linked) = (scenario::numbers(&kernel, "dir"), kernel.stat("links/a").unwrap().st_ino);
    let theirs = scenario::change(&kernel).steps;
    // Where it takes a layer that it cannot work with, all that it can do is what is done here, too.
    let fails = |(ours, theirs): (&(_, String), &(_, String))| ours != theirs && ours.1 == "ok" && theirs.1 != "ok";
    if changed.steps.iter().zip(&theirs).any(fails) {
        println!("the kernel fails (tested, kernel):\n{:?}\n{theirs:?}", changed.steps);
        seen.insert(KERNEL, "fails".into());
        return;
    }
    assert_eq!(changed.steps, theirs, "(tested, kernel)");
    after.assert_same(&scenario::view(&kernel, true), "after the changes (tested, kernel)");
    kernel.remount();
    after.assert_same(&scenario::view(&kernel, true), "after the kernel's remount (tested, kernel)");
    seen.insert(KERNEL, "same".into());
    seen.insert(KERNEL_LINKS, scenario::links(&kernel, linked).into());
    seen.insert(KERNEL_NUMBERS, kept(scenario::numbers(&kernel, changed.dir) == numbers));
}

fn kept(kept: bool) -> String {
    if kept { "kept" } else { "new" }.into()
}

/// The kernel's OverlayFS sees the same in what was written, all of it as lower layers: that it takes of any file system.
fn read_by_the_kernel(ours: &Layers, after: &View, scratch: &Scratch) -> String {
    let follow = "redirect_dir=follow,metacopy=on,xino=on";
    let options = format!("lowerdir={}:{},{follow}", ours.upper.root().display(), ours.lowers);
    let Ok(kernel) = Kernel::with(&options, &scratch.dir("read")) else { return "refuses".into() };
    match scenario::view(&kernel, true).difference(after) {
        None => "yes".into(),
        Some(difference) => {
            println!("the kernel reads another view (kernel, tested):\n{difference}");
            "no".into()
        }
    }
}

/// Where the marks of the upper layer stand.
fn marks(upper: &Layer) -> String {
    let keys: Vec<_> = ["", "file", "again"].iter().flat_map(|path| upper.xattrs(path).unwrap()).collect();
    let has = |prefix: &str| keys.iter().any(|key| key.starts_with(prefix.as_bytes()));
    match (has("trusted.overlay."), has("user.overlay.")) {
        (true, false) => "trusted",
        (false, true) => "user",
        (false, false) => "none",
        (true, true) => "both",
    }
    .into()
}

/// How a name is hidden.
fn whiteout(upper: &Layer, name: &str) -> String {
    assert!(upper.is_whiteout(name), "no whiteout for {name}");
    match upper.stat(name).map(|st| FileType::from_raw_mode(st.st_mode)) {
        Ok(FileType::CharacterDevice) => "device",
        Ok(_) => "marked file",
        Err(_) => ".wh. file",
    }
    .into()
}

/// Compares a row of the table with what was seen.
fn check<const N: usize>(table: &Table<N>, system: &str, gave: &Seen, wrong: &mut Vec<String>) {
    let (_, gives) = table.rows.iter().find(|row| row.0 == system).unwrap();
    for (column, claim) in table.columns.iter().zip(gives) {
        let none = String::new();
        let seen = gave.get(column.name).unwrap_or(&none);
        if column.needs.is_none_or(mount::takes) && seen != claim {
            wrong.push(format!("{} {system}, {}: it is {seen:?}, not {claim:?}", table.heading, column.name));
        }
        // What the kernel keeps is no less here.
        let kernel = [(LINKS, KERNEL_LINKS), (NUMBERS, KERNEL_NUMBERS)].iter().find(|pair| pair.0 == column.name);
        let kernel = kernel.and_then(|pair| gave.get(pair.1));
        let trusts_too_much = KERNEL_TRUSTS.contains(&(system, column.name));
        if !trusts_too_much && kernel.is_some_and(|kernel| kernel != claim && BEST.contains(&kernel.as_str())) {
            wrong.push(format!("{} {system}, {}: {kernel:?} in the kernel", table.heading, column.name));
        }
    }
}

/// Looks at one row; the others go on when it panics.
fn each(system: &str, wrong: &mut Vec<String>, look: impl FnOnce(&mut Vec<String>)) {
    let mut here = Vec::new();
    if catch_unwind(AssertUnwindSafe(|| look(&mut here))).is_err() {
        here.push(format!("{system}: see above"));
    }
    wrong.append(&mut here);
}

fn say_what_is_not_compared<const N: usize>(table: &Table<N>) {
    for column in &table.columns {
        if let Some(option) = column.needs.filter(|option| !mount::takes(option)) {
            say_skipped(&format!("{}: column {:?}: {option} is not there yet", table.heading, column.name));
        }
    }
}

/// The layer on the file system in question and the one below it, filled; says how the first hides names.
fn lower_on(system: &str, scratch: &Scratch, base: &Path) -> (Made, String) {
    scenario::fill_base(&Layer::new(base.to_owned()));
    let mut hides = String::new();
    let mut fill = |layer: &Layer| {
        scenario::fill(layer);
        hides = scenario::hide(layer);
        layer.age();
    };
    let made = match system {
        "squashfs" | "erofs" => System::packed(system, scratch, &mut fill),
        "plyfs" => Ok(System::plyfs()),
        "OverlayFS" => System::overlay(),
        other => self::system(other, scratch),
    };
    if let (Ok(made), false) = (&made, ["squashfs", "erofs"].contains(&system)) {
        fill(&Layer::new(made.root().to_owned()));
    }
    (made, hides)
}

#[test]
fn a_lower_layer_on_each_file_system() {
    let _alone = alone();
    // A machine that is emulated takes its time.
    within(if given().is_empty() { 100 } else { 900 }, || {
        if who() != Who::Root || !mount::is_plyfs() {
            skip!("file systems of their own are needed, and the claims are those of plyfs");
        }
        let mut wrong = Vec::new();
        say_what_is_not_compared(&LOWERS);
        for system in rows(&LOWERS) {
            let scratch = Scratch::in_memory();
            let base = scratch.dir("base");
            let upper = match System::native("ext4", &scratch) {
                Ok(upper) => upper,
                Err(why) => skip!("no upper layer: {why}"),
            };
            let (lower, hides) = lower_on(system, &scratch, &base);
            let lower = match lower {
                Ok(lower) => lower,
                Err(why) => {
                    say_skipped(&format!("{system}: {why}"));
                    continue;
                }
            };
            let untouched = view::layer(lower.root());
            let [ours, theirs] =
                ["ours", "kernel"].map(|who| Layers::new(&[lower.root(), &base], upper.root(), &scratch, who));
            each(system, &mut wrong, |wrong| {
                let mut seen = observe(&ours, &theirs, &scratch);
                seen.entry(HIDES).or_insert(hides);
                let after = view::layer(lower.root());
                after.assert_same(&untouched, &format!("the lower layer on {system} (after, before)"));
                check(&LOWERS, system, &seen, wrong);
            });
        }
        println!("{}", LOWERS.markdown());
        assert!(wrong.is_empty(), "{wrong:#?}");
    });
}

fn upper_on(system: &str, scratch: &Scratch) -> Made {
    match system {
        "plyfs" => Ok(System::plyfs()),
        "OverlayFS" => System::overlay(),
        "bindfs on ext4" => System::bindfs(System::native("ext4", scratch)?, scratch),
        "bindfs on OverlayFS" => System::bindfs(System::overlay()?, scratch),
        other => self::system(other, scratch),
    }
}

#[test]
fn an_upper_layer_on_each_file_system() {
    let _alone = alone();
    // A machine that is emulated takes its time.
    within(if given().is_empty() { 100 } else { 900 }, || {
        if who() != Who::Root || !mount::is_plyfs() {
            skip!("file systems of their own are needed, and the claims are those of plyfs");
        }
        let mut wrong = Vec::new();
        say_what_is_not_compared(&UPPERS);
        for system in rows(&UPPERS) {
            let scratch = Scratch::in_memory();
            let (lower, base) = (scratch.dir("lower"), scratch.dir("base"));
            scenario::fill(&Layer::new(lower.clone()));
            Layer::new(lower.clone()).file("cover/own", "x").age();
            scenario::fill_base(&Layer::new(base.clone()));
            let upper = match upper_on(system, &scratch) {
                Ok(upper) => upper,
                Err(why) => {
                    say_skipped(&format!("{system}: {why}"));
                    continue;
                }
            };
            let [ours, theirs] =
                ["ours", "kernel"].map(|who| Layers::new(&[&lower, &base], upper.root(), &scratch, who));
            each(system, &mut wrong, |wrong| {
                let mut seen = observe(&ours, &theirs, &scratch);
                if seen[MARKS] != REFUSED {
                    seen.insert(REFLINK, shares_blocks(upper.root(), &scratch).into());
                }
                check(&UPPERS, system, &seen, wrong);
            });
        }
        println!("{}", UPPERS.markdown());
        assert!(wrong.is_empty(), "{wrong:#?}");
    });
}

/// Whether a copy-up from a lower layer on the same file system takes no room for the data.
fn shares_blocks(system: &Path, scratch: &Scratch) -> &'static str {
    const SIZE: usize = 8 << 20;
    let lower = Layer::new(system.join("shared-lower"));
    std::fs::create_dir(lower.root()).unwrap();
    lower.file("large", vec![b'l'; SIZE]);
    let layers = Layers::new(&[lower.root()], system, scratch, "shared");
    let used = || {
        // Not on each (9p): then what is used is counted at once.
        let _ = rustix::fs::syncfs(Tree::new(system).open("", OFlags::RDONLY).unwrap());
        let st = rustix::fs::statvfs(system).unwrap();
        (st.f_blocks - st.f_bfree) * st.f_frsize
    };
    let mount = Mount::with(&layers.options(""), &layers.at, &scratch.path().join("log"));
    let before = used();
    mount.pwrite("large", 5, b"x").unwrap();
    if used() - before < SIZE as u64 / 2 { "yes" } else { "no" }
}

#[test]
fn the_documents_show_what_each_file_system_gives() {
    const START: &str = "<!-- layers -->\n";
    const END: &str = "<!-- /layers -->";
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/layers.md");
    let Ok(document) = std::fs::read_to_string(&path) else { skip!("the sources are closed to this user") };
    let (before, rest) = document.split_once(START).unwrap();
    let (shown, after) = rest.split_once(END).unwrap();
    let tables = format!("{}\n{}", LOWERS.markdown(), UPPERS.markdown());
    if std::env::var_os("PLYFS_UPDATE_DOCS").is_some() {
        std::fs::write(&path, format!("{before}{START}{tables}{END}{after}")).unwrap();
    } else {
        assert!(shown == tables, "run PLYFS_UPDATE_DOCS=1 cargo test --test filesystems");
    }
}

#[test]
fn again_in_a_user_namespace() {
    let _alone = alone();
    legs::in_a_user_namespace();
}
