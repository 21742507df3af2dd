//! A file system on the recorded disk: where histories run, and where what a loss of power left is looked at.

use std::cell::RefCell;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::Command;

use plyfs::Union;
use plyfs::config::Config;
use plyfs::testing::seam::{Plan, with_plan};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_change, unmount};
use rustix::thread::{UnshareFlags, unshare_unsafe};

use crate::common::mount::wait_until;
use crate::common::{Kernel, Scratch, systems};
use crate::engine::{Engine, View, config};
use crate::image::{Event, Image, Random, State};
use crate::recorder::Disk;
use crate::rows::{self, Row};

/// What the disk does between the calls of an operation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Way {
    /// Nothing of its own accord.
    Quiet,
    /// The journal is written before each call, but no data of which the journal knows nothing yet.
    Commits,
    /// All is written before each call.
    Syncs,
    /// One or the other, now and then.
    Mixed,
}

impl Way {
    pub const ALL: [Way; 4] = [Way::Commits, Way::Mixed, Way::Quiet, Way::Syncs];
}

struct Between {
    way: Way,
    /// A file that has nothing to do with the union, on the same file system.
    bystander: File,
    random: Random,
}

thread_local! {
    static BETWEEN: RefCell<Option<Between>> = const { RefCell::new(None) };
}

/// Runs before each call.
pub fn between() {
    BETWEEN.with_borrow_mut(|between| {
        let Some(Between { way, bystander, random }) = between else { return };
        let way = match way {
            Way::Mixed => [Way::Quiet, Way::Quiet, Way::Quiet, Way::Commits, Way::Syncs][random.below(5) as usize],
            way => *way,
        };
        match way {
            Way::Commits => {
                bystander.set_modified(std::time::SystemTime::now()).unwrap();
                bystander.sync_all().unwrap();
            }
            Way::Syncs => rustix::fs::syncfs(bystander).unwrap(),
            Way::Quiet | Way::Mixed => {}
        }
    });
}

/// What is seen after each step by plyfs and by the kernel; the first is before all.
pub struct Views(Vec<[View; 2]>);

impl Views {
    /// Whether what a reader sees is a state of the history, with what was synced until then.
    fn allow(&self, row: &Row, state: &State, reader: usize, seen: &View) -> Result<(), String> {
        let mut known: Vec<Known> = Vec::new();
        for (at, views) in self.0.iter().enumerate().take(state.begun + 1) {
            known.push(Known { at, torn_by: None, view: views[reader].clone() });
            for (number, step) in row.steps.iter().enumerate().take(at) {
                let torn = step.torn.iter().map(|(path, text)| views[reader].with_content(path, text.as_bytes()));
                known.extend(torn.map(|view| Known { at, torn_by: Some(number), view }));
            }
        }
        for (number, step) in row.steps.iter().enumerate().take(state.done) {
            for path in step.keeps {
                // What a later step tears was synced all the same.
                let counts = |known: &&Known| known.at > number && known.torn_by.is_none_or(|by| by > number);
                if !known.iter().filter(counts).any(|known| known.view.agrees(seen, path)) {
                    let difference = seen.difference(&self.0[number + 1][reader]);
                    return Err(format!("{path} is not as it was synced in step {number}:{difference}"));
                }
            }
        }
        if known.iter().any(|known| known.view == *seen) {
            return Ok(());
        }
        let whole = known.iter().filter(|known| known.torn_by.is_none());
        let differences: Vec<_> = whole.map(|known| seen.difference(&known.view)).collect();
        Err(format!("none of the states of the history:{}", differences.join("\n    nor")))
    }
}

/// The file system on the disk as long as it is recorded.
pub struct Recording {
    base: Image,
    file: File,
}

impl Recording {
    /// Ends it, with nothing left to be written: what stood there at the beginning, and the log.
    pub fn end(self, stand: &Stand) -> Result<(Image, Vec<Event>), String> {
        rustix::fs::syncfs(&self.file).map_err(text)?;
        BETWEEN.set(None);
        Ok((self.base, stand.disk.recorded()))
    }
}

/// What may be seen.
struct Known {
    /// After so many steps.
    at: usize,
    /// With data that this one has not synced.
    torn_by: Option<usize>,
    view: View,
}

/// A file system with the lower layer, an empty upper layer and a workdir.
pub struct Stand {
    kind: &'static str,
    pub at: PathBuf,
    merged: PathBuf,
    /// Without and with large files.
    bases: [Image; 2],
    pub disk: Disk,
    pub scratch: Scratch,
}

/// The file system, mounted; unmounted on Drop.
pub struct Up<'a>(&'a Stand);

impl Drop for Up<'_> {
    fn drop(&mut self) {
        // A process that another thread starts has its descriptors until it runs its own program.
        let mut last = Ok(());
        wait_until(|| {
            last = unmount(&self.0.at, UnmountFlags::empty());
            last != Err(Errno::BUSY)
        });
        let gone = last.map_err(text).and_then(|()| self.0.wait_until_unused());
        if let Err(why) = gone {
            let _ = unmount(&self.0.at, UnmountFlags::DETACH);
            assert!(std::thread::panicking(), "the file system on the disk: {why}");
        }
    }
}

/// What this thread mounts from now on nobody else sees: a mount namespace that another process makes has a copy of every
/// mount, and a file system lives on with that. It also goes with the test, however that ends.
fn withdraw() -> Result<(), String> {
    // SAFETY: no other thread relies on sharing its working directory or umask with this one.
    #[allow(unsafe_code)]
    unsafe { unshare_unsafe(UnshareFlags::NEWNS) }.map_err(text)?;
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change("/", private).map_err(text)
}

fn text(error: impl std::fmt::Debug) -> String {
    format!("{error:?}")
}

impl Stand {
    /// A file system of this kind, or why there is none here.
    pub fn new(kind: &'static str) -> Result<Self, String> {
        let (mib, package, mkfs): (u64, _, &[&str]) = match kind {
            "ext4" => (48, "e2fsprogs", &["mkfs.ext4", "-qF", "-b4096", "-Elazy_itable_init=0,nodiscard"]),
            "xfs" => (300, "xfsprogs", &["mkfs.xfs", "-qfK"]),
            "btrfs" => (128, "btrfs-progs", &["mkfs.btrfs", "-qfK"]),
            other => return Err(format!("not known: {other}")),
        };
        withdraw()?;
        let scratch = Scratch::in_memory();
        let path = scratch.path().join("image");
        let image = File::options().read(true).write(true).create_new(true).open(&path).map_err(text)?;
        image.set_len(mib << 20).map_err(text)?;
        systems::run(package, Command::new(mkfs[0]).args(&mkfs[1..]).arg(&path))?;
        let disk = Disk::new(mib << 20, &scratch.dir("disk"))?;
        disk.load(&Image::load(&image));
        fs::remove_file(path).map_err(text)?;
        let (at, merged) = (scratch.dir("at"), scratch.dir("merged"));
        let mut stand = Stand { kind, at, merged, bases: Default::default(), disk, scratch };
        {
            let _up = stand.up()?;
            for dir in ["lower", "upper", "work"] {
                fs::create_dir(stand.at.join(dir)).map_err(text)?;
            }
            rows::lower(&stand.at.join("lower"));
            fs::write(stand.at.join("bystander"), "").map_err(text)?;
        }
        rows::lower(&stand.scratch.dir("lower"));
        rows::lower(&stand.scratch.dir("lower-large"));
        rows::lower_large(&stand.scratch.dir("lower-large"));
        let small = stand.disk.image();
        {
            let _up = stand.up()?;
            rows::lower_large(&stand.at.join("lower"));
        }
        stand.bases = [small, stand.disk.image()];
        Ok(stand)
    }

    /// Mounts what is on the disk.
    pub fn up(&self) -> Result<Up<'_>, String> {
        mount(self.disk.device(), &self.at, self.kind, MountFlags::NOATIME, None)
            .map_err(|error| format!("the file system is not mounted: {error}"))?;
        Ok(Up(self))
    }

    /// A file system that is still in use would go on with what it remembers of another image.
    fn wait_until_unused(&self) -> Result<(), String> {
        let claim = || rustix::fs::open(self.disk.device(), OFlags::RDONLY | OFlags::EXCL, Mode::empty());
        let unused = wait_until(|| !matches!(claim(), Err(Errno::BUSY)));
        if unused { Ok(()) } else { Err("it is still in use".into()) }
    }

    /// The file system as it was made.
    pub fn fresh(&self, row: &Row) -> Up<'_> {
        self.disk.load(&self.bases[usize::from(row.large)]);
        self.up().unwrap()
    }

    fn lower(&self, row: &Row) -> PathBuf {
        match (row.apart, row.large) {
            (false, _) => self.at.join("lower"),
            (true, false) => self.scratch.path().join("lower"),
            (true, true) => self.scratch.path().join("lower-large"),
        }
    }

    fn config(&self, row: &Row) -> Config {
        let copyup_block = row.blocks.then_some(12);
        Config { fsync: row.fsync, copyup_block, index: Some(true), ..config(&self.lower(row), &self.at) }
    }

    pub fn open(&self, row: &Row) -> Result<Engine, String> {
        Union::open(self.config(row)).map(Engine::around).map_err(|error| format!("plyfs does not open it: {error}"))
    }

    pub fn by_plyfs(&self, row: &Row) -> Result<View, String> {
        let view = self.open(row)?.view().map_err(|errno| format!("not to be read: {errno}"))?;
        let left: Vec<_> =
            fs::read_dir(self.at.join("work/work")).map_err(text)?.map(|entry| entry.unwrap().file_name()).collect();
        if left.iter().any(|name| name != "incompat") {
            return Err(format!("left in workdir: {left:?}"));
        }
        Ok(view)
    }

    pub fn by_kernel(&self, row: &Row) -> Result<View, String> {
        let (lower, at) = (self.lower(row), self.at.display());
        let options = format!("lowerdir={},upperdir={at}/upper,workdir={at}/work", lower.display());
        let options = format!("{options},redirect_dir=on,metacopy=on,index=on");
        let _kernel =
            Kernel::with(&options, &self.merged).map_err(|error| format!("the kernel does not open it: {error}"))?;
        Ok(View::of(&self.merged))
    }

    /// The views of plyfs and of the kernel, the one that looks first first.
    fn both(&self, row: &Row, kernel_first: bool) -> Result<[View; 2], String> {
        if row.blocks {
            // Not for the kernel, as long as there are such files.
            let view = self.by_plyfs(row)?;
            return Ok([view.clone(), view]);
        }
        if kernel_first {
            let kernel = self.by_kernel(row)?;
            return Ok([self.by_plyfs(row)?, kernel]);
        }
        Ok([self.by_plyfs(row)?, self.by_kernel(row)?])
    }

    /// What is seen after each step.
    pub fn views(&self, row: &Row) -> Result<Views, String> {
        let _up = self.fresh(row);
        let acts = std::iter::once(row.before).chain(row.steps.iter().map(|step| step.act));
        let mut views = Vec::new();
        for act in acts {
            let engine = self.open(row)?;
            act(&engine).map_err(|errno| format!("step {}: {errno}", views.len()))?;
            drop(engine);
            views.push(self.both(row, false)?);
        }
        Ok(Views(views))
    }

    /// Runs a history: what was on the disk, durably, before its first step, and the log.
    pub fn record(&self, row: &Row, way: Way, seed: u64) -> Result<(Image, Vec<Event>), String> {
        let _up = self.fresh(row);
        let engine = self.open(row)?;
        (row.before)(&engine).map_err(text)?;
        let recording = self.recording(way, seed)?;
        for (number, step) in row.steps.iter().enumerate() {
            self.disk.mark(Event::Begin(number));
            with_plan(Plan::count().each(between), || (step.act)(&engine)).0.map_err(text)?;
            self.disk.mark(Event::Done(number));
            between();
        }
        let recorded = recording.end(self)?;
        // What is left open goes with the disk: it was recorded.
        with_plan(Plan::dead_from(0), || drop(engine));
        Ok(recorded)
    }

    /// Records how the engine is opened, and a change.
    pub fn record_opening(&self, row: &Row, way: Way, seed: u64) -> Result<(Image, Vec<Event>), String> {
        let _up = self.fresh(row);
        let recording = self.recording(way, seed)?;
        let engine = with_plan(Plan::count().each(between), || {
            let engine = self.open(row)?;
            row.steps.iter().try_for_each(|step| (step.act)(&engine)).map_err(text)?;
            Ok::<_, String>(engine)
        });
        let recorded = recording.end(self)?;
        engine.0.map(|engine| with_plan(Plan::dead_from(0), || drop(engine)).0)?;
        Ok(recorded)
    }

    /// Begins to record, with nothing left to be written.
    pub fn recording(&self, way: Way, seed: u64) -> Result<Recording, String> {
        let bystander = File::options().write(true).open(self.at.join("bystander")).map_err(text)?;
        bystander.write_all_at(b"x", 0).map_err(text)?;
        rustix::fs::syncfs(&bystander).map_err(text)?;
        let file = bystander.try_clone().map_err(text)?;
        BETWEEN.set(Some(Between { way, bystander, random: Random::new(seed) }));
        Ok(Recording { base: self.disk.record(), file })
    }

    /// Looks at what a loss of power left.
    pub fn check(&self, row: &Row, views: &Views, state: &State, kernel_first: bool) -> Result<(), String> {
        self.disk.load(&state.image);
        let _up = self.up()?;
        if row.blocks {
            self.reboot();
        }
        for path in row.steps.iter().take(state.done).flat_map(|step| step.copies) {
            fs::symlink_metadata(self.at.join("upper").join(path)).map_err(|e| format!("the copy of {path}: {e}"))?;
        }
        let seen = self.both(row, kernel_first)?;
        let readers = ["plyfs", "the kernel"].into_iter().zip(&seen).enumerate();
        readers.into_iter().try_for_each(|(reader, (name, seen))| {
            views.allow(row, state, reader, seen).map_err(|why| format!("{name}: {why}"))
        })
    }

    /// The machine has started again: records of blocks are of another run.
    fn reboot(&self) {
        let records = self.at.join("work/work/incompat/plyfs.blocks");
        for record in fs::read_dir(records).into_iter().flatten() {
            let file = File::options().write(true).open(record.unwrap().path()).unwrap();
            if file.metadata().unwrap().len() >= 40 {
                file.write_all_at(&[0xee; 16], 24).unwrap();
            }
        }
    }
}
