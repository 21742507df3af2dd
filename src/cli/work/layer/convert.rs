//! `plyfs layer convert`: a layer in another form.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};

use super::super::super::daemon::say;
use super::super::super::progress::Spinner;
use super::super::super::report::Failure;
use super::super::super::show;
use super::out::{LOSSES, check_above, check_place, gathered, json, refusal, refused, tell_made, text};
use crate::base::Errno;
use crate::base::config::{Config, Fsync, UpperDirs, Uuid};
use crate::sys::path::{OFlags, open_beneath, open_root};
use crate::sys::{lock, process};
use crate::tool::Layers;
use crate::tool::beside::{Beside, Taken};
use crate::tool::convert::{Dialect, Meanwhile};
use crate::tool::squash::{How, Joined, Only, Squashed, joined, squash};
use crate::union::{self, Form, Namespace, Rivals, WhiteoutStyle};

/// What keeps hard links together.
const JOINS: &str = "--flatten --lower LAYER… brings all of their names up";

/// What is wrong with a layer without its index.
fn parts(count: usize) -> String {
    format!("{count} hard links of lower files are in the index of the workdir, without which their names part")
}

/// What to do where a layer may not have been named.
const ALL: &str = "name all layers below: --lower LAYER…, and --bottom if these are all";

/// What is wrong with hard links whose names were not all found.
fn falls_short(count: u64) -> String {
    format!("{count} hard links in the index have names that are hidden, or in layers that were not named")
}

/// What may be wrong with directories that came up.
fn goes_on(count: u64) -> String {
    format!("{count} renamed directories have only what the named layers have")
}

/// Where marks are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Marks {
    /// `trusted.overlay.*`: root's layers
    Trusted,
    /// `user.overlay.*`: those of other users, and of mounts with userxattr
    User,
    /// None: opaque directories hold .wh..wh..opq
    Wh,
}

/// What hides a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Whiteouts {
    /// 0/0 character devices
    Device,
    /// Empty files marked overlay.whiteout
    Xattr,
    /// .wh.NAME files
    Wh,
}

/// How the layer is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum From {
    /// Root's marks; .wh.NAME are files
    Trusted,
    /// Users' marks; .wh.NAME are files
    User,
    /// .wh.NAME are whiteouts, as in layers of docker, aufs and fuse-overlayfs
    Wh,
    /// A branch of unionfs-fuse
    Unionfs,
}

/// a layer with other marks and whiteouts, which shows the same
#[derive(Debug, Args)]
#[command(after_help = "\
OUT must not exist; it appears when all is in it. --marks alone: with devices, or .wh.NAME files
for wh; --whiteouts alone: with the marks of who runs it, or none for wh.

Exit status: 0 done; 1 not done, and nothing is left of it; 2 usage; 4 done, but hard links parted, or stdout is full

Examples:
  plyfs layer convert --marks user upper out
  plyfs layer convert --marks wh --flatten --lower app --lower base --bottom upper out
  plyfs layer convert --whiteouts device --from unionfs branch out
  plyfs layer convert --marks user --in-place lower")]
pub struct Convert {
    /// Where the marks of OUT are
    #[arg(long, value_enum, value_name = "WHERE", required_unless_present = "whiteouts")]
    marks: Option<Marks>,
    /// What hides names in OUT
    #[arg(long, value_enum, value_name = "FORM")]
    whiteouts: Option<Whiteouts>,
    /// Bring up what the layer only refers to: contents of renamed directories, data of metacopy files
    #[arg(long)]
    flatten: bool,
    /// A layer that it stands on: all of them, the topmost first
    #[arg(long, value_name = "LAYER", requires = "flatten")]
    lower: Vec<PathBuf>,
    /// A data-only layer below all of them, as lowerdir=…::DIR has it; may be given again
    #[arg(long, value_name = "DIR", requires = "flatten")]
    datadir: Vec<PathBuf>,
    /// No layer lies below the last one that is named
    #[arg(long, requires = "flatten")]
    bottom: bool,
    /// How the layer is read (as its root tells)
    #[arg(long, value_enum, value_name = "HOW")]
    from: Option<From>,
    /// The layer is an upper one, and DIR is its workdir
    #[arg(long, value_name = "DIR")]
    workdir: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    /// The layer
    #[arg(value_name = "LAYER")]
    layer: PathBuf,
    /// The directory that is made
    #[arg(value_name = "OUT", required_unless_present = "in_place", conflicts_with = "in_place")]
    out: Option<PathBuf>,
    /// Replace the layer; nothing may be mounted on it
    #[arg(long)]
    in_place: bool,
}

impl Convert {
    /// Makes it.
    ///
    /// # Errors
    /// The layer is in use or cannot be read, or cannot be written in this form; then nothing is left of it.
    pub fn run(self) -> Result<u8, Failure> {
        let form = self.form()?;
        let place = match &self.out {
            Some(out) => out.clone(),
            None => self.place()?,
        };
        let out = place.display().to_string();
        let failed = |errno: Errno| Failure::refused(out.clone(), errno.to_string(), "");
        let others = self.lower.iter().chain(&self.datadir).chain(&self.workdir);
        check_place(&place, others.chain(Some(&self.layer).filter(|_| !self.in_place)))?;
        let beside = if self.in_place { Beside::instead_of(&place) } else { Beside::begin(&place) };
        let beside = beside.map_err(|taken| self.taken(&out, taken))?;
        let lock = self.lock(&place)?;
        let [below, layer, work] = [c"below", c"layer", c"work"].map(|name| beside.add(name));
        let dirs = UpperDirs { dir: layer.map_err(failed)?, work: work.map_err(failed)? };
        let written = union::written();
        check_above([&self.layer].into_iter().chain(&self.lower).chain(&self.datadir), &written)?;
        let below = below.map_err(failed)?;
        let meanwhile = Meanwhile::begin(&below).map_err(failed)?;
        let (layers, locks) = gathered(&self.source(below.clone())?, &below, &out)?;
        let dialect = self.dialect(&layers)?;
        let indexed = layers.indexed().map_err(failed)?;
        let layers = layers.with_index();
        let (parted, joined) = self.joined(&layers, indexed)?;
        let short = joined.short;
        let only = Only { flatten: self.flatten, dialect, joined: joined.names };
        let upper = union::anew(&self.target(dirs, form), layers.owners(), Some(form))?;
        let spinner = Spinner::new("converting");
        let how = How { link: self.in_place, written, only: Some(only), ..How::default() };
        let mut made = squash(&layers, &upper, how).map_err(refused)?;
        drop(spinner);
        if self.bottom {
            made.open = 0;
        }
        if self.in_place {
            if made.open > 0 {
                return Err(Failure::refused(self.name(), goes_on(made.open), ALL));
            }
            beside.flush().map_err(failed)?;
            // Who came meanwhile, and what was written.
            self.place()?;
            self.check_unchanged(meanwhile.changed(&layers, &upper))?;
        }
        let published = if self.in_place { beside.replace(c"layer") } else { beside.publish(c"layer") };
        published.map_err(|errno| self.unpublished(&out, errno))?;
        drop((lock, locks));
        let losses = [("parted", parted as u64 + made.parted), ("short", short), ("open", made.open)];
        let told = tell_made(&if self.json { json(&made, &losses) } else { text(&made) });
        Ok(told.max(self.tell(parted, short, &made)))
    }

    /// Refuses a layer that was changed since its reading began.
    fn check_unchanged(&self, changed: Result<Option<PathBuf>, Errno>) -> Result<(), Failure> {
        match changed {
            Ok(None) => Ok(()),
            Ok(Some(path)) => {
                let of_root = path.as_os_str().is_empty();
                let what = if of_root { self.name() } else { self.layer.join(path).display().to_string() };
                let hint = "end what writes to the layer, and try again";
                Err(Failure::refused(what, "somebody has changed it meanwhile", hint))
            }
            Err(errno) => Err(Failure::refused(self.name(), errno.to_string(), "")),
        }
    }

    /// How many hard links part without the index, and what it joins otherwise.
    fn joined(&self, layers: &Layers, indexed: usize) -> Result<(usize, Joined), Failure> {
        let parted = if self.flatten { 0 } else { indexed };
        if parted > 0 && self.in_place {
            return Err(Failure::refused(self.name(), parts(parted), JOINS));
        }
        if indexed == parted {
            return Ok((parted, Joined::default()));
        }
        let mut joined = joined(layers).map_err(|errno| Failure::refused(self.name(), errno.to_string(), ""))?;
        if self.bottom {
            joined.short = 0;
        }
        if joined.short > 0 && self.in_place {
            return Err(Failure::refused(self.name(), falls_short(joined.short), ALL));
        }
        Ok((parted, joined))
    }

    /// Says what was lost, or may have been: the exit status.
    fn tell(&self, parted: usize, short: u64, made: &Squashed) -> u8 {
        let tell = |what: String, hint: &str| say(&format!("{}: {what} ({hint})", self.name()));
        if parted > 0 {
            tell(parts(parted), JOINS);
        }
        if short > 0 {
            tell(falls_short(short), ALL);
        }
        if made.open > 0 {
            tell(goes_on(made.open), ALL);
        }
        if made.parted > 0 {
            let what = format!(
                "{} hard links of lower files came up without all of the names that they have: those that are still seen part",
                made.parted
            );
            tell(what, "the layer without --flatten leads to them");
        }
        if parted > 0 || short > 0 || made.parted > 0 { LOSSES } else { 0 }
    }

    /// Where the layer is that is replaced. Nothing may read it meanwhile.
    fn place(&self) -> Result<PathBuf, Failure> {
        let name = self.name();
        let place = self.layer.canonicalize();
        let place = place.map_err(|error| Failure::refused(&name, Errno::from(error).to_string(), "check the path"))?;
        let is_commit = place.ends_with("layer") && place.with_file_name("about").exists();
        if is_commit && place.ancestors().nth(2).is_some_and(|above| above.ends_with("commits")) {
            let hint = "plyfs layer convert LAYER OUT makes another one of it";
            return Err(Failure::refused(name, "it is a commit, on which a view may stand", hint));
        }
        let dirs = UpperDirs { dir: place.clone(), work: place.clone() };
        Rivals::of(&Config { upper: Some(dirs), ..Config::default() }).check_alone()?;
        match show::view_with(&place) {
            None => Ok(place),
            Some(at) => {
                let hint = format!("umount {at} first");
                Err(Failure::refused(name, format!("in use by the view at {at}"), hint))
            }
        }
    }

    /// Keeps views from having the layer that is replaced as their upper one. With --workdir it is locked as theirs are.
    fn lock(&self, place: &Path) -> Result<Option<OwnedFd>, Failure> {
        if !self.in_place || self.workdir.is_some() {
            return Ok(None);
        }
        let lock = || {
            let dir = open_beneath(open_root(place)?.as_fd(), c".", OFlags::RDONLY | OFlags::DIRECTORY)?;
            Ok(lock::try_lock(dir.as_fd())?.then_some(dir))
        };
        match lock() {
            Ok(Some(dir)) => Ok(Some(dir)),
            Ok(None) => Err(Failure::refused(self.name(), "in use by a view as its upper layer", "unmount that first")),
            Err(errno) => Err(Failure::refused(self.name(), Errno::to_string(&errno), "it must be readable")),
        }
    }

    fn taken(&self, out: &str, taken: Taken) -> Failure {
        match taken {
            Taken::Failed(errno) if self.in_place => self.unpublished(out, errno),
            taken => refusal(out, taken),
        }
    }

    /// Why the layer cannot be put in its place.
    fn unpublished(&self, out: &str, errno: Errno) -> Failure {
        let hint = match errno {
            _ if !self.in_place => "",
            Errno::EXDEV | Errno::EBUSY => "it is the root of a mount: name OUT, and leave --in-place out",
            Errno::EINVAL => "its file system cannot exchange names: name OUT, and leave --in-place out",
            Errno::EACCES | Errno::EPERM | Errno::EROFS => "the directory that holds it must be writable",
            _ => "",
        };
        Failure::refused(out, errno.to_string(), hint)
    }

    fn name(&self) -> String {
        self.layer.display().to_string()
    }

    /// The form that is asked for.
    fn form(&self) -> Result<Form, Failure> {
        let marks = self.marks.unwrap_or(match self.whiteouts {
            Some(Whiteouts::Wh) => Marks::Wh,
            _ if union::may_write_trusted() => Marks::Trusted,
            _ => Marks::User,
        });
        let whiteouts = self.whiteouts.unwrap_or(if marks == Marks::Wh { Whiteouts::Wh } else { Whiteouts::Device });
        if (marks, whiteouts) == (Marks::Wh, Whiteouts::Xattr) {
            let reason = "a marked file needs marks, of which --marks wh has none";
            return Err(Failure::usage("--whiteouts xattr", reason, "--marks trusted or --marks user"));
        }
        let marks = match marks {
            Marks::Trusted => Some(Namespace::Trusted),
            Marks::User => Some(Namespace::User),
            Marks::Wh => None,
        };
        let style = match whiteouts {
            Whiteouts::Device => WhiteoutStyle::Device,
            Whiteouts::Xattr => WhiteoutStyle::Xattr,
            Whiteouts::Wh => WhiteoutStyle::File,
        };
        Ok(Form { marks, style })
    }

    /// The layer with those below it, and with an empty one below all.
    fn source(&self, below: PathBuf) -> Result<Config, Failure> {
        let name = self.name();
        let failed =
            |errno: Errno| Failure::refused(&name, errno.to_string(), "it must be a directory that can be read");
        let written = union::marks_on(&self.layer).map_err(failed)?;
        if written.on_commit {
            let hint = "plyfs layer squash --workdir makes one layer of them";
            return Err(Failure::refused(&name, "it stands on commits, which are parts of what it shows", hint));
        }
        if self.in_place && written.has_commits {
            let reason = "redo leads from it to commits in its workdir, and could not any more";
            return Err(Failure::refused(&name, reason, "plyfs layer convert LAYER OUT makes another one of it"));
        }
        // Root would follow them to what the user may not read, or say so for all mounts.
        let gives = self.flatten || self.form()?.marks == Some(Namespace::Trusted);
        if written.by_user && self.from.is_none() && gives && union::may_write_trusted() {
            let reason = "its marks are those of a user, which may lead to whatever the layers below have";
            return Err(Failure::refused(
                &name,
                reason,
                "--from user, if you trust who wrote it (--from wh: its .wh.NAME are whiteouts)",
            ));
        }
        let userxattr = match self.from {
            Some(From::Trusted) => false,
            Some(From::User) => true,
            _ => written.by_user,
        };
        let wh_names = self.from.map(|from| from == From::Wh);
        let mut lowers = self.lower.clone();
        let upper = self.workdir.clone().map(|work| UpperDirs { dir: self.layer.clone(), work });
        if upper.is_none() {
            lowers.insert(0, self.layer.clone());
        }
        lowers.push(below);
        let data_only = self.datadir.clone();
        Ok(Config { lowers, data_only, upper, userxattr, wh_names, ..Config::default() })
    }

    /// What is written. Other programs that know no redirects read what is flat.
    fn target(&self, dirs: UpperDirs, form: Form) -> Config {
        let userxattr = match form.marks {
            Some(namespace) => namespace == Namespace::User,
            None => !union::may_write_trusted(),
        };
        let plain = self.flatten;
        Config { upper: Some(dirs), userxattr, plain, fsync: Fsync::Auto, uuid: Uuid::Off, ..Config::default() }
    }

    /// What else hides names in the layer.
    fn dialect(&self, layers: &Layers) -> Result<Dialect, Failure> {
        let is_said = self.from.is_some();
        if !matches!(self.from, None | Some(From::Unionfs)) {
            return Ok(Dialect::plain(is_said));
        }
        let failed = |errno: Errno| Failure::refused(self.name(), errno.to_string(), "");
        let top = layers.root.top().ok_or(Errno::EIO).map_err(failed)?;
        if let Some(found) = Dialect::unionfs(top, is_said).map_err(failed)? {
            return Ok(found);
        }
        let plain = Dialect::plain(is_said);
        let is_known = union::may_write_trusted() || union::marks_on(&self.layer).map_err(failed)?.by_user;
        Ok(if is_known { plain } else { plain.unseen(process::id_of_root()) })
    }
}
