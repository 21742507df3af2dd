//! Commits of an upper layer: `workdir/commits/N/layer`, each a whole upper layer that is written no more.
//!
//! A commit is one exchange of two names: the upper layer's, and that of an empty directory which was prepared as its
//! successor. Before it there is a directory in `commits` that counts for nothing, as it stands on itself; after it the
//! upper layer is empty and stands on the commit.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::inherit::{make_private, take_project};
use super::removal::{children, remove};
use crate::base::{Errno, Result};
use crate::format::commits::{About, MOST_TEXT, Stand, Why, number};
use crate::format::mark::{Mark, Namespace};
use crate::format::{Decoded, Origin};
use crate::sys::path::{OFlags, open_beneath, parent_of};
use crate::sys::stat::{Kind, SetTime, Stat, stat_at, stat_fd};
use crate::sys::tree::{self, RenameFlags};
use crate::sys::{data, handle, xattr};

const COMMITS: &CStr = c"commits";
const LAYER: &CStr = c"layer";
const ABOUT: &CStr = c"about";
const INDEX: &CStr = c"index";

/// Greater numbers are not those of commits: somebody has made the directory.
const MOST_COMMITS: u64 = 1 << 32;

/// A commit that layers stand on, and that cannot be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Broken {
    /// Its number; 0: the mark on the upper layer's root.
    pub commit: u64,
    /// What opening or reading it said; `EINVAL`: its mark does not lead downwards; `ESTALE`: it is another one.
    pub errno: Errno,
}

impl Broken {
    /// In words.
    pub fn reason(&self) -> String {
        match self.errno {
            Errno::ESTALE => "it is not the one that the layer stands on, but of the same number".to_owned(),
            errno => errno.to_string(),
        }
    }
}

/// The commits in a work directory.
#[derive(Debug)]
pub struct Commits {
    dir: Option<OwnedFd>,
    namespace: Namespace,
}

/// A frozen layer.
#[derive(Debug)]
pub struct Frozen {
    /// The number of the commit.
    pub number: u64,
    /// The layer's root, opened with `O_PATH`.
    pub root: OwnedFd,
    /// Where the layer stands.
    pub stand: Stand,
}

pub(super) fn open_dir(at: BorrowedFd<'_>, name: &CStr) -> Result<OwnedFd> {
    open_beneath(at, name, OFlags::RDONLY | OFlags::DIRECTORY)
}

fn name_of(commit: u64) -> Result<CString> {
    CString::new(commit.to_string()).map_err(|_| Errno::EINVAL)
}

/// Where the layer with this root stands, as its mark in `namespace` says.
///
/// # Errors
/// `EINVAL` for a mark that says nothing; what reading it says.
pub fn stand_of(root: BorrowedFd<'_>, namespace: Namespace) -> Result<Stand> {
    match xattr::get_at(root, c".", namespace.key(Mark::On))? {
        None => Ok(Stand::default()),
        Some(value) => Stand::parse(&value).map_err(|_| Errno::EINVAL),
    }
}

impl Commits {
    /// Those in `workdir`, whose marks are in `namespace`.
    ///
    /// # Errors
    /// What opening the directory says; `ELOOP` for a symlink.
    pub fn open(workdir: BorrowedFd<'_>, namespace: Namespace) -> Result<Self> {
        let dir = match open_dir(workdir, COMMITS) {
            Err(Errno::ENOENT) => None,
            dir => Some(dir?),
        };
        Ok(Self { dir, namespace })
    }

    /// The layers beneath one that stands on the commit `on`, the topmost first.
    ///
    /// # Errors
    /// [`Broken`]
    pub fn chain(&self, on: u64) -> std::result::Result<Vec<Frozen>, Broken> {
        let mut chain = Vec::new();
        self.walk(on, &mut |frozen| chain.push(frozen))?;
        Ok(chain)
    }

    /// The numbers of these layers. No descriptor of them is kept.
    ///
    /// # Errors
    /// [`Broken`]
    pub fn numbers_beneath(&self, on: u64) -> std::result::Result<Vec<u64>, Broken> {
        let mut numbers = Vec::new();
        self.walk(on, &mut |frozen| numbers.push(frozen.number))?;
        Ok(numbers)
    }

    /// Whether the commit on which a layer stands is the one that it was made on.
    ///
    /// # Errors
    /// `ESTALE`: it has another id.
    pub fn check(&self, stand: Stand) -> std::result::Result<(), Broken> {
        // What is said of a commit may be lost: it is one all the same.
        let id = stand.id.filter(|_| stand.on != 0).zip(self.about(stand.on).ok().and_then(|about| about.id));
        match id {
            Some((one, other)) if one != other => Err(Broken { commit: stand.on, errno: Errno::ESTALE }),
            _ => Ok(()),
        }
    }

    fn walk(&self, on: u64, take: &mut dyn FnMut(Frozen)) -> std::result::Result<(), Broken> {
        let mut next = on;
        while next != 0 {
            let broken = |errno| Broken { commit: next, errno };
            let frozen = self.frozen(next).map_err(broken)?;
            self.check(frozen.stand)?;
            // A commit stands on an earlier one: so no chain has an end that it does not come to.
            if frozen.stand.on >= next {
                return Err(broken(Errno::EINVAL));
            }
            next = frozen.stand.on;
            take(frozen);
        }
        Ok(())
    }

    /// The layer of one commit.
    ///
    /// # Errors
    /// `ENOENT`: there is none; `ELOOP`, `ENOTDIR`, and what opening it says.
    pub fn frozen(&self, number: u64) -> Result<Frozen> {
        let at = self.at(number)?;
        let root = open_beneath(at.as_fd(), LAYER, OFlags::PATH | OFlags::DIRECTORY)?;
        let stand = stand_of(root.as_fd(), self.namespace)?;
        Ok(Frozen { number, root, stand })
    }

    /// What is said of a commit.
    ///
    /// # Errors
    /// What reading it says.
    pub fn about(&self, number: u64) -> Result<About> {
        let at = self.at(number)?;
        // Never a fifo, at which this would wait.
        let file = open_beneath(at.as_fd(), ABOUT, OFlags::RDONLY | OFlags::NONBLOCK)?;
        if !stat_fd(file.as_fd())?.is_file() {
            return Err(Errno::EINVAL);
        }
        let mut bytes = vec![0; MOST_TEXT + 64];
        let read = data::pread_full(file.as_fd(), &mut bytes, 0)?;
        bytes.truncate(read);
        Ok(About::parse(&bytes))
    }

    /// The numbers of all commits, in their order, those that an undo has left among them.
    ///
    /// # Errors
    /// What reading the directory says.
    pub fn numbers(&self) -> Result<Vec<u64>> {
        let Some(dir) = &self.dir else { return Ok(Vec::new()) };
        let named = children(dir.as_fd())?.into_iter().filter_map(|(name, _)| number(name.to_bytes()));
        let mut numbers: Vec<u64> = named.filter(|number| (1..MOST_COMMITS).contains(number)).collect();
        numbers.sort_unstable();
        Ok(numbers)
    }

    /// The directory of one commit.
    pub(super) fn at(&self, number: u64) -> Result<OwnedFd> {
        open_dir(self.dir.as_ref().ok_or(Errno::ENOENT)?.as_fd(), &name_of(number)?)
    }

    /// Whether what stands at `number` is no commit: its making was broken off.
    fn is_unfinished(&self, number: u64) -> bool {
        match self.frozen(number) {
            Ok(frozen) => {
                let is_empty = |root: BorrowedFd<'_>| children(open_dir(root, c".")?.as_fd()).map(|all| all.is_empty());
                frozen.stand.on >= number
                    || self.about(number).is_ok_and(|about| match about.why {
                        Why::Empty => true,
                        Why::Paths => is_empty(frozen.root.as_fd()).unwrap_or(false),
                        Why::Commit | Why::Undo => false,
                    })
            }
            Err(errno) => errno == Errno::ENOENT,
        }
    }

    /// Removes a commit that has nothing in it. Nothing else is ever removed.
    pub(super) fn remove_empty(&self, number: u64) -> Result<()> {
        let Some(dir) = &self.dir else { return Ok(()) };
        let name = name_of(number)?;
        let at = open_dir(dir.as_fd(), &name)?;
        let unless_absent = |done: Result<()>| if done == Err(Errno::ENOENT) { Ok(()) } else { done };
        unless_absent(tree::rmdir_at(at.as_fd(), LAYER))?;
        unless_absent(tree::unlink_at(at.as_fd(), ABOUT))?;
        tree::rmdir_at(dir.as_fd(), &name)
    }

    /// Whether an upper layer has changed something beside what the commit has on which it stands: it has names, or its
    /// root has another owner, mode or attributes.
    ///
    /// # Errors
    /// What reading them says.
    pub fn has_changes(&self, root: BorrowedFd<'_>, on: u64) -> Result<bool> {
        let open = open_dir(root, c".")?;
        if !children(open.as_fd())?.is_empty() {
            return Ok(true);
        }
        if on == 0 {
            return Ok(false);
        }
        let below = self.frozen(on)?.root;
        let (one, two) = (stat_fd(root)?, stat_fd(below.as_fd())?);
        let same = (one.mode, one.uid, one.gid) == (two.mode, two.uid, two.gid);
        Ok(!same || attributes(root)? != attributes(below.as_fd())?)
    }
}

/// Marks on a root that belong to one layer alone.
const OWN: [Mark; 5] = [Mark::On, Mark::Origin, Mark::Impure, Mark::Opaque, Mark::Upper];

/// The extended attributes of a layer's root that its successor has, too.
fn attributes(root: BorrowedFd<'_>) -> Result<Vec<(CString, Vec<u8>)>> {
    let is_own = |key: &CStr| {
        OWN.iter().any(|&mark| [Namespace::Trusted, Namespace::User].map(|of| of.key(mark)).contains(&key))
    };
    let mut all = Vec::new();
    for key in xattr::list_at(root, c".")? {
        let Ok(key) = CString::new(key) else { continue };
        if !is_own(&key)
            && let Some(value) = xattr::get_at(root, c".", &key)?
        {
            all.push((key, value));
        }
    }
    all.sort();
    Ok(all)
}

/// What the root of a layer looks like, beside its times.
#[derive(Debug, PartialEq, Eq)]
pub struct Looks {
    owner: (u32, u32, u32),
    attributes: Vec<(CString, Vec<u8>)>,
}

impl Looks {
    /// Those of this root.
    ///
    /// # Errors
    /// What reading them says.
    pub fn of(root: BorrowedFd<'_>) -> Result<Self> {
        let stat = stat_fd(root)?;
        Ok(Self { owner: (stat.mode, stat.uid.0, stat.gid.0), attributes: attributes(root)? })
    }
}

/// Removes an index, if there is one.
fn remove_index(at: BorrowedFd<'_>) -> Result<()> {
    match remove(at, INDEX, Kind::Dir) {
        Err(Errno::ENOENT) => Ok(()),
        done => done,
    }
}

/// An upper layer that is to be frozen, and its directories.
#[derive(Debug, Clone, Copy)]
pub struct Standing<'a> {
    /// The work directory.
    pub workdir: BorrowedFd<'a>,
    /// The root of the upper layer.
    pub root: BorrowedFd<'a>,
    /// The namespace of its marks.
    pub namespace: Namespace,
    /// What is done is on disk when it returns.
    pub synced: bool,
}

/// The successor of an upper layer, which waits in `workdir/commits`. It goes with the value unless it has taken the
/// layer's place.
#[derive(Debug)]
pub struct Successor {
    commits: OwnedFd,
    at: OwnedFd,
    /// The number of the commit that the upper layer becomes.
    pub number: u64,
    /// Its root.
    pub root: OwnedFd,
    /// The directory that holds the upper layer, and its name there.
    place: (OwnedFd, CString),
    exchanged: bool,
}

impl Standing<'_> {
    /// Prepares an empty layer that looks like the layer `like`, and that will stand on what `stand` says, which is given
    /// the number of the commit that is made. `number`: the least number that the commit may have.
    ///
    /// # Errors
    /// `EXDEV`, `EBUSY`: the upper layer's name cannot be exchanged; what the system calls say.
    pub fn prepare(
        &self,
        like: BorrowedFd<'_>,
        (number, about): (u64, &About),
        stand: impl FnOnce(u64) -> Stand,
    ) -> Result<Successor> {
        let place = parent_of(self.root)?.ok_or(Errno::EBUSY)?;
        let own = stat_fd(self.root)?;
        if stat_at(place.0.as_fd(), &place.1).map(|there| (there.dev, there.ino)) != Ok((own.dev, own.ino)) {
            return Err(Errno::ESTALE);
        }
        let made = tree::mkdir_at(self.workdir, COMMITS, 0o700);
        match made {
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(errno) => return Err(errno),
        }
        if made.is_ok() && self.synced {
            data::fsync(open_dir(self.workdir, c".")?.as_fd())?;
        }
        let commits = open_dir(self.workdir, COMMITS)?;
        make_private(commits.as_fd(), self.workdir)?;
        let known = Commits { dir: Some(commits.try_clone()?), namespace: self.namespace };
        let number = known.numbers()?.last().map_or(1, |last| last + 1).max(number);
        let name = name_of(number)?;
        tree::mkdir_at(commits.as_fd(), &name, 0o700)?;
        let at = open_dir(commits.as_fd(), &name)?;
        let made = (|| {
            let file = tree::create_at(at.as_fd(), ABOUT, OFlags::WRONLY, 0o600)?;
            data::pwrite_all(file.as_fd(), &about.encode(), 0)?;
            if self.synced {
                data::fsync(file.as_fd())?;
            }
            tree::mkdir_at(at.as_fd(), LAYER, 0o700)?;
            let root = open_dir(at.as_fd(), LAYER)?;
            self.furnish(root.as_fd(), like, stand(number))?;
            Ok(root)
        })();
        match made {
            Ok(root) => Ok(Successor { commits, at, number, root, place, exchanged: false }),
            Err(errno) => {
                let _ = known.remove_empty(number);
                Err(errno)
            }
        }
    }

    /// Gives an empty layer the attributes that the layer `like` has, and the marks of this one.
    fn furnish(&self, root: BorrowedFd<'_>, like: BorrowedFd<'_>, stand: Stand) -> Result<()> {
        self.dress(root, like, self.root, &[(self.namespace.key(Mark::On), stand.encode().as_bytes())])
    }

    /// Gives an empty directory the attributes that the directory `like` has, the marks of the directory `marked`, and some
    /// more of them.
    pub(super) fn dress(
        &self,
        root: BorrowedFd<'_>,
        like: BorrowedFd<'_>,
        marked: BorrowedFd<'_>,
        more: &[(&CStr, &[u8])],
    ) -> Result<()> {
        take_project(root, self.root)?;
        let (from, now) = (stat_fd(like)?, stat_fd(root)?);
        if (from.uid, from.gid) != (now.uid, now.gid) {
            tree::chown_fd(root, Some(from.uid), Some(from.gid))?;
        }
        // What was inherited.
        for key in xattr::list_fd(root)? {
            let key = CString::new(key).map_err(|_| Errno::EINVAL)?;
            if key.to_bytes().starts_with(b"system.posix_acl_") {
                xattr::remove_fd(root, &key)?;
            }
        }
        let is_mark =
            |key: &CStr| [Namespace::Trusted, Namespace::User].iter().any(|of| key.to_bytes().starts_with(of.prefix()));
        // How the layer is written is this layer's affair, and what it looks like that of the other.
        let marks = attributes(marked)?.into_iter().filter(|(key, _)| is_mark(key));
        let looks = attributes(like)?.into_iter().filter(|(key, _)| !is_mark(key));
        for (key, value) in marks.chain(looks) {
            match xattr::set_fd(root, &key, &value, 0) {
                // Such as a label of a security module, which the system gives.
                Err(Errno::EOPNOTSUPP | Errno::EPERM) if key.to_bytes().starts_with(b"security.") => {}
                set => set?,
            }
        }
        for (key, value) in more {
            xattr::set_fd(root, key, value, 0)?;
        }
        tree::chmod_fd(root, from.mode & 0o7777)?;
        tree::utimens_fd(root, [SetTime::At(from.atime), SetTime::At(from.mtime)])?;
        if self.synced { data::fsync(root) } else { Ok(()) }
    }
}

impl Successor {
    /// The attributes of its root.
    ///
    /// # Errors
    /// What fstat(2) says.
    pub fn stat(&self) -> Result<Stat> {
        stat_fd(self.root.as_fd())
    }

    /// Gives its root the times that another one has.
    ///
    /// # Errors
    /// What the system calls say.
    pub fn take_times(&self, from: BorrowedFd<'_>) -> Result<()> {
        let from = stat_fd(from)?;
        tree::utimens_fd(self.root.as_fd(), [SetTime::At(from.atime), SetTime::At(from.mtime)])
    }

    /// Puts it in the place of the upper layer, which becomes the commit: before or after, whenever the process ends.
    ///
    /// # Errors
    /// What renameat2(2) says; then nothing has changed.
    pub fn exchange(&mut self) -> Result<()> {
        let (parent, name) = (&self.place.0, self.place.1.as_c_str());
        tree::rename_at(parent.as_fd(), name, self.at.as_fd(), LAYER, RenameFlags::EXCHANGE)?;
        self.exchanged = true;
        Ok(())
    }

    /// Takes the exchange back.
    ///
    /// # Errors
    /// As [`Successor::exchange`].
    pub fn take_back(&mut self) -> Result<()> {
        if self.exchanged {
            let (parent, name) = (&self.place.0, self.place.1.as_c_str());
            tree::rename_at(parent.as_fd(), name, self.at.as_fd(), LAYER, RenameFlags::EXCHANGE)?;
            self.exchanged = false;
        }
        Ok(())
    }

    /// The directory of the commit.
    pub(super) fn at(&self) -> BorrowedFd<'_> {
        self.at.as_fd()
    }

    /// Syncs the names of the commit itself.
    pub(super) fn sync_own(&self) -> Result<()> {
        data::fsync(self.at.as_fd())?;
        data::fsync(self.commits.as_fd())
    }

    /// Keeps the prepared commit, which holds something by now and is to take nobody's place.
    pub(super) fn keep(&mut self) {
        self.exchanged = true;
    }

    /// Syncs the names that the exchange has changed.
    ///
    /// # Errors
    /// `EIO`, `ENOSPC`, `EDQUOT`
    pub fn sync(&self) -> Result<()> {
        data::fsync(self.at.as_fd())?;
        data::fsync(self.commits.as_fd())?;
        data::fsync(open_dir(self.place.0.as_fd(), c".")?.as_fd())
    }

    /// Puts the index of the frozen layer aside. False: there is none.
    ///
    /// # Errors
    /// What renameat2(2) says.
    pub fn put_index_aside(&self, workdir: BorrowedFd<'_>) -> Result<bool> {
        match tree::rename_at(workdir, INDEX, self.at.as_fd(), INDEX, RenameFlags::empty()) {
            Ok(()) => Ok(true),
            Err(Errno::ENOENT) => Ok(false),
            Err(errno) => Err(errno),
        }
    }

    /// Puts the index back, in place of one that was made since.
    ///
    /// # Errors
    /// What the system calls say.
    pub fn put_index_back(&self, workdir: BorrowedFd<'_>) -> Result<()> {
        match remove(workdir, INDEX, Kind::Dir) {
            Ok(()) | Err(Errno::ENOENT) => {}
            Err(errno) => return Err(errno),
        }
        tree::rename_at(self.at.as_fd(), INDEX, workdir, INDEX, RenameFlags::empty())
    }

    /// Removes the index of the frozen layer: each name has a link of its own.
    ///
    /// # Errors
    /// What the system calls say.
    pub fn remove_index(&self) -> Result<()> {
        remove_index(self.at.as_fd())
    }
}

impl Drop for Successor {
    fn drop(&mut self) {
        if self.exchanged {
            return;
        }
        let done = self.commits.try_clone().map_err(Errno::from).and_then(|dir| {
            // The namespace is of no account here.
            Commits { dir: Some(dir), namespace: Namespace::User }.remove_empty(self.number)
        });
        if let Err(errno) = done {
            log::info!("workdir/commits/{}: it is left: {errno}", self.number);
        }
    }
}

impl Standing<'_> {
    /// Tidies up after a process that ended in the midst of a commit: what was prepared goes, and the index of a layer that
    /// is frozen by now. The caller has the upper layer for itself.
    ///
    /// # Errors
    /// What the system calls say.
    pub fn settle(&self) -> Result<()> {
        let commits = Commits::open(self.workdir, self.namespace)?;
        self.settle_taken(&commits)?;
        for number in commits.numbers()? {
            if let Some(dir) = &commits.dir
                && let Ok(at) = open_dir(dir.as_fd(), &name_of(number)?)
            {
                remove_index(at.as_fd())?;
            }
            if commits.is_unfinished(number)
                && let Err(errno) = commits.remove_empty(number)
            {
                log::info!("workdir/commits/{number}: it is no commit, and stays: {errno}");
            }
        }
        let on = stand_of(self.root, self.namespace)?.on;
        if on != 0 && self.has_index_of_another()? {
            self.drop_index()?;
        }
        Ok(())
    }

    /// Whether the index in the work directory belongs to a layer that is frozen.
    fn has_index_of_another(&self) -> Result<bool> {
        let index = match open_beneath(self.workdir, INDEX, OFlags::PATH | OFlags::DIRECTORY) {
            Err(Errno::ENOENT) => return Ok(false),
            index => index?,
        };
        let Some(mark) = xattr::get_at(index.as_fd(), c".", self.namespace.key(Mark::Upper))? else { return Ok(false) };
        let is_of = |root: BorrowedFd<'_>| {
            let Ok(handle) = handle::handle_at(root, c".") else { return false };
            matches!(Origin::decode(&mark), Ok(Decoded::Known(origin))
                if i32::from(origin.kind) == handle.kind && origin.fid == handle.bytes)
        };
        if is_of(self.root) {
            return Ok(false);
        }
        let commits = Commits::open(self.workdir, self.namespace)?;
        // The last commits come first: one of them is it.
        Ok(commits
            .numbers()?
            .into_iter()
            .rev()
            .any(|number| commits.frozen(number).is_ok_and(|one| is_of(one.root.as_fd()))))
    }

    /// Removes the index of a layer that is frozen: all of its names have links of their own.
    ///
    /// # Errors
    /// What the system calls say.
    pub fn drop_index(&self) -> Result<()> {
        remove_index(self.workdir)
    }

    /// Removes the commit that was made of an empty layer.
    ///
    /// # Errors
    /// What the system calls say: it is removed later.
    pub fn forget_empty(&self, number: u64) -> Result<()> {
        Commits::open(self.workdir, self.namespace)?.remove_empty(number)
    }
}
