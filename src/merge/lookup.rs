//! Looks a name up through the layers, from the top down. A mark may lead the search to another name (`redirect`) or on
//! to a file's data (`metacopy`), and the index leads it from a lower hard link to the copy.

use std::os::fd::AsFd;
use std::sync::Arc;

use super::{Absent, Answer, Data, DirPart, DirView, Found, FoundDir, FoundLeaf, LowerFile, MetaFile, Stack};
use crate::base::{Errno, Name, Result};
use crate::format::{Base, Protattr, Redirect};
use crate::layer::{
    DirMarks, DirPlace, IndexDir, LeafMarks, LookedUp, Place, index_of, look_up, read_dir_marks, read_leaf_marks,
};
use crate::sys::stat::Stat;

/// Looks `name` up in a merged directory.
///
/// # Errors
/// `EPERM` for a mark that may not be followed, `EIO` for a metacopy file without data; what the layers' system calls say.
pub fn lookup(stack: &Stack, dir: &DirView, name: &Name) -> Result<Answer> {
    lookup_from(stack, dir, name, 0)
}

/// Looks `name` up in a merged directory whose slots before `from` are known not to have the name.
///
/// # Errors
/// As [`lookup`].
pub fn lookup_from(stack: &Stack, dir: &DirView, name: &Name, from: usize) -> Result<Answer> {
    lookup_in(stack, dir, name, from, None::<std::iter::Empty<usize>>)
}

/// Looks `name` up in a merged directory, in slot `from` and in the slots of `below` only. These are the slots after
/// `from`, in ascending order, that have an object or a whiteout of this name; `None`: any slot after `from` may have
/// one.
///
/// # Errors
/// As [`lookup`].
pub fn lookup_in(
    stack: &Stack,
    dir: &DirView,
    name: &Name,
    from: usize,
    below: Option<impl Iterator<Item = usize>>,
) -> Result<Answer> {
    let mut search = Search::new(stack, name);
    match search.all(dir, name, from, below)? {
        Some(hidden) => Ok(Answer::Absent(hidden)),
        None => search.answer(),
    }
}

/// Looks `name` up in a merged directory of layers below which there may be more, and says where the search would go on there.
/// A metacopy file whose data is not in these layers, nor in those of data only, is no error as long as the search goes on.
///
/// # Errors
/// As [`lookup`].
pub fn lookup_open(stack: &Stack, dir: &DirView, name: &Name) -> Result<(Answer, Rest)> {
    let mut search = Search::new(stack, name);
    if let Some(hidden) = search.all(dir, name, 0, None::<std::iter::Empty<usize>>)? {
        return Ok((Answer::Absent(hidden), Rest::End));
    }
    let rest = match &search.want {
        _ if search.stop => Rest::End,
        Want::Name(name) => Rest::Name(name.clone()),
        Want::Path(path) => Rest::Path(path.clone()),
    };
    search.data_wanted &= match &rest {
        Rest::End => true,
        Rest::Path(path) => stack.has_data(path),
        Rest::Name(_) => false,
    };
    Ok((search.answer()?, rest))
}

/// Looks up `name` in a directory of the upper layer that is outside of its tree (workdir). `data`: the directory and
/// the name of the data of a metacopy file, if no path of its marks leads there.
///
/// # Errors
/// As [`lookup`].
pub fn lookup_nameless(stack: &Stack, dir: &DirPart, name: &Name, data: Option<(&DirPart, &Name)>) -> Result<Answer> {
    let mut search = Search::new(stack, name);
    if let Some(hidden) = search.look(dir)? {
        return Ok(Answer::Absent(hidden));
    }
    if let Want::Path(_) = search.want {
        for root in stack.below(dir.level) {
            if search.stop {
                break;
            }
            search.look(root)?;
        }
    } else if let (false, Some((part, name))) = (search.stop, data) {
        search.want = Want::Name(name.clone());
        search.look(part)?;
    }
    search.answer()
}

/// Where a search goes on below the last layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rest {
    /// Nowhere: what lies below is hidden.
    End,
    /// Under this name, in the same directory.
    Name(Name),
    /// At this path from the root; it is never empty.
    Path(Vec<Name>),
}

/// What the search looks for in the next layer.
enum Want {
    /// This name, in the directory's parts.
    Name(Name),
    /// The object at this path from the layer's root; the path is never empty.
    Path(Vec<Name>),
}

impl Want {
    /// What is looked for after a redirect on the object at component `at` of the path.
    fn redirected(&self, at: usize, redirect: &Redirect) -> Self {
        let rest = match self {
            Self::Name(_) => &[],
            Self::Path(path) => path.get(at + 1..).unwrap_or_default(),
        };
        match (self, redirect) {
            (_, Redirect::Absolute(path)) => Self::Path([path, rest].concat()),
            (Self::Name(_), Redirect::Relative(name)) => Self::Name(name.clone()),
            (Self::Path(path), Redirect::Relative(name)) => {
                let before = path.get(..at).unwrap_or_default();
                Self::Path([before, std::slice::from_ref(name), rest].concat())
            }
        }
    }

    /// The component of the path that stands for the object itself.
    fn last(&self) -> usize {
        match self {
            Self::Name(_) => 0,
            Self::Path(path) => path.len().saturating_sub(1),
        }
    }
}

/// A search on its way down through the layers.
struct Search<'a> {
    stack: &'a Stack,
    want: Want,
    found: Option<Partial>,
    /// A metacopy file was found, whose data is further down.
    data_wanted: bool,
    /// No layer further down counts.
    stop: bool,
}

/// What the search has found so far.
#[allow(clippy::large_enum_variant)] // Lives on the stack for one lookup.
enum Partial {
    Dir(Merged),
    Leaf(FoundLeaf),
}

/// A merged directory that is being put together.
struct Merged {
    top: Stat,
    lower: Option<Stat>,
    upper: Option<DirPart>,
    redirect: Option<Redirect>,
    protection: Protattr,
    plain: (bool, bool),
    lowers: Vec<DirPart>,
}

impl<'a> Search<'a> {
    fn new(stack: &'a Stack, name: &Name) -> Self {
        Self { stack, want: Want::Name(name.clone()), found: None, data_wanted: false, stop: false }
    }

    /// Looks into all parts of a directory, as [`lookup_in`] says. `Some`: a whiteout in the upper layer ends the search.
    fn all(
        &mut self,
        dir: &DirView,
        name: &Name,
        from: usize,
        below: Option<impl Iterator<Item = usize>>,
    ) -> Result<Option<Absent>> {
        let mut below = below.map(Iterator::peekable);
        for (slot, part) in dir.parts(from) {
            if let Some(below) = &mut below
                && slot > from
                && self.wants(name)
            {
                while below.next_if(|at| *at < slot).is_some() {}
                if below.peek() != Some(&slot) {
                    continue;
                }
            }
            if let Some(hidden) = self.look(part)? {
                return Ok(Some(hidden));
            }
            if self.stop {
                break;
            }
            if let Want::Path(_) = self.want {
                // An absolute redirect: the search goes on from the roots of the layers below, whether or not the directory
                // has a part there.
                for root in self.stack.below(part.level) {
                    self.look(root)?;
                    if self.stop {
                        break;
                    }
                }
                break;
            }
        }
        Ok(None)
    }

    /// Whether the search still looks for `name`, as no redirect has led it elsewhere.
    fn wants(&self, name: &Name) -> bool {
        matches!(&self.want, Want::Name(wanted) if wanted == name)
    }

    /// Looks into one layer. `Some`: a whiteout in the upper layer ends the search.
    fn look(&mut self, part: &DirPart) -> Result<Option<Absent>> {
        let reached;
        let (dir, name) = match &self.want {
            Want::Name(name) => (part, name.clone()),
            Want::Path(path) => {
                let (Some(name), path) = (path.last().cloned(), path.clone()) else { return Ok(None) };
                match self.descend(part, path)? {
                    Some(dir) => reached = dir,
                    None => return Ok(None),
                }
                (&reached, name)
            }
        };
        match look_up(&dir.place, &name, dir.xattr_whiteouts)? {
            LookedUp::Nothing => {}
            LookedUp::Whiteout if part.level == 0 && self.found.is_none() => return Ok(Some(Absent::UpperWhiteout)),
            LookedUp::Whiteout => self.stop = true,
            LookedUp::Object(stat) => self.object(dir, &name, stat)?,
        }
        Ok(None)
    }

    /// Finds the directory of a layer that holds the last component of `path`; `None`: the layer has no such directory.
    ///
    /// Marks of the directories on the way count as they do in lookups of one name after the other.
    fn descend(&mut self, root: &DirPart, path: Vec<Name>) -> Result<Option<DirPart>> {
        let mut dir = root.clone();
        for (at, name) in path.iter().enumerate().take(path.len() - 1) {
            match look_up(&dir.place, name, dir.xattr_whiteouts)? {
                LookedUp::Nothing => return Ok(None),
                LookedUp::Object(stat) if stat.is_dir() => {
                    let (part, marks) = self.dir_part(&dir, name, &stat)?;
                    self.stop |= marks.opaque;
                    if let Some(redirect) = &marks.redirect {
                        // From the end: a redirect further up may have made the way longer.
                        self.follow((self.want.last() + 1 + at).saturating_sub(path.len()), redirect)?;
                    }
                    dir = part;
                }
                LookedUp::Object(_) | LookedUp::Whiteout => {
                    self.stop = true;
                    return Ok(None);
                }
            }
        }
        Ok(Some(dir))
    }

    /// The subdirectory `name` of a part, with its marks.
    fn dir_part(&self, within: &DirPart, name: &Name, stat: &Stat) -> Result<(DirPart, DirMarks)> {
        self.stack.check_trap(within.level, stat).inspect_err(|_| {
            log::warn!(
                "{name:?} in {:?} is a lower layer or the workdir: what is written must not be a part of it",
                within.place
            );
        })?;
        let place = within.place.child(name, stat.ino);
        if stat.ino != 0 {
            place.layer.check_folding(within.place.fd()?.as_fd(), name.as_c_str())?;
        }
        let below = within.level < self.stack.last();
        let marks = read_dir_marks(&place, within.place.fd()?.as_fd(), name.as_c_str(), below)?;
        // An upper layer that writes xattr whiteouts may have them in every directory.
        let xattr_whiteouts = marks.xattr_whiteouts || (within.level == 0 && within.xattr_whiteouts);
        Ok((DirPart { place, level: within.level, xattr_whiteouts, impure: marks.impure }, marks))
    }

    /// Follows a redirect on the object at component `at`: the layers below are searched for another name.
    fn follow(&mut self, at: usize, redirect: &Redirect) -> Result<()> {
        let to_data = self.data_wanted && !self.stack.data_only.is_empty() && matches!(redirect, Redirect::Absolute(_));
        if !self.stack.follow_redirect && !to_data {
            log::warn!("a redirect to {redirect:?} is not followed (redirect_dir=nofollow)");
            return Err(Errno::EPERM);
        }
        self.want = self.want.redirected(at, redirect);
        if let Redirect::Absolute(_) = redirect {
            // An opaque directory on the old way no longer hides anything. Where redirects are not followed only the
            // data-only layers may be reached.
            self.stop = !self.stack.follow_redirect;
        }
        Ok(())
    }

    fn object(&mut self, dir: &DirPart, name: &Name, stat: Stat) -> Result<()> {
        match &self.found {
            Some(Partial::Leaf(_)) => self.data(dir, name, stat),
            _ if stat.is_dir() => self.dir(dir, name, stat),
            // A file below a directory hides the layers further down.
            Some(Partial::Dir(_)) => {
                self.stop = true;
                Ok(())
            }
            None => self.leaf(dir, name, stat),
        }
    }

    fn dir(&mut self, within: &DirPart, name: &Name, stat: Stat) -> Result<()> {
        let (part, marks) = self.dir_part(within, name, &stat)?;
        let protection = Protattr::default();
        let (lowers, plain) = (Vec::new(), (marks.plain, false));
        let none = || Merged { top: stat, lower: None, upper: None, redirect: None, protection, plain, lowers };
        let Partial::Dir(merged) = self.found.get_or_insert_with(|| Partial::Dir(none())) else { return Ok(()) };
        if part.level == 0 {
            merged.upper = Some(part);
            merged.redirect.clone_from(&marks.redirect);
            merged.protection = marks.protection;
        } else {
            if merged.lower.is_none() {
                (merged.lower, merged.plain.1) = (Some(stat), marks.plain);
            }
            merged.lowers.push(part);
        }
        self.stop |= marks.opaque;
        match &marks.redirect {
            Some(redirect) => self.follow(self.want.last(), redirect),
            None => Ok(()),
        }
    }

    /// Enters the first object that is no directory, which is the one that is seen.
    fn leaf(&mut self, dir: &DirPart, name: &Name, stat: Stat) -> Result<()> {
        if dir.level > 0
            && let Some((entry, stat_of_copy, index)) = self.indexed(&dir.place, name, &stat)?
        {
            return self.copied_leaf(dir, name, stat, (entry, stat_of_copy, index));
        }
        let marks = read_leaf_marks(&dir.place, name, &stat, dir.impure)?;
        let upper = dir.level == 0;
        let index = if upper { self.index_entry(&marks, &stat)? } else { None };
        let place = match (&self.stack.index, &index) {
            // The place in the index, where the object stays when it loses this name.
            (Some(dir), Some(entry)) => dir.place(entry),
            _ => Place { dir: dir.place.clone(), name: name.clone() },
        };
        let (mut leaf, redirect) = make_leaf(place, stat, marks, upper);
        (leaf.named, leaf.index) = (upper, index);
        leaf.lower = self.origin(&leaf);
        self.expect_data(&leaf)?;
        self.found = Some(Partial::Leaf(leaf));
        match redirect {
            Some(redirect) if self.data_wanted => self.follow(self.want.last(), &redirect),
            _ => Ok(()),
        }
    }

    /// The attributes of the lower object that an upper one is a copy of, where the mark alone does not tell enough.
    fn origin(&self, leaf: &FoundLeaf) -> Option<Stat> {
        let origin = leaf.origin.as_ref()?;
        let counts = leaf.nlink.as_ref().is_some_and(|mark| mark.base == Base::Lower);
        self.stack.resolve(origin, counts)
    }

    /// Makes the search go on to the data of a metacopy file.
    fn expect_data(&mut self, leaf: &FoundLeaf) -> Result<()> {
        self.data_wanted = leaf.meta.is_some();
        self.stop = !self.data_wanted;
        if self.data_wanted && !self.stack.follow_metacopy {
            log::warn!("{:?} has its data in another layer, which is not followed (metacopy=off)", leaf.place);
            return Err(Errno::EPERM);
        }
        Ok(())
    }

    /// The copy of a lower hard link, if the index has one.
    fn indexed(&self, dir: &DirPlace, name: &Name, stat: &Stat) -> Result<Option<(Place, Stat, Name)>> {
        let Some(index) = self.stack.index.as_ref().filter(|_| stat.nlink > 1) else { return Ok(None) };
        let Some(origin) = index_of(&dir.layer, dir.fd()?.as_fd(), name.as_c_str())? else { return Ok(None) };
        let Ok(entry) = IndexDir::name(&origin) else { return Ok(None) };
        let Some(copy) = index.find(&entry)? else { return Ok(None) };
        if copy.is_whiteout() {
            return Err(Errno::ESTALE);
        }
        if copy.kind() != stat.kind() {
            log::warn!("the index has an object of another type for {name:?} in {dir:?}");
            return Err(Errno::EIO);
        }
        Ok(Some((index.place(&entry), copy, entry)))
    }

    /// Enters a lower name whose file was copied up under another name: the copy is the object that is seen.
    fn copied_leaf(&mut self, dir: &DirPart, name: &Name, lower: Stat, copy: (Place, Stat, Name)) -> Result<()> {
        let (place, stat, index) = copy;
        let marks = read_leaf_marks(&place.dir, &place.name, &stat, true)?;
        let (mut leaf, _) = make_leaf(place, stat, marks, true);
        leaf.index = Some(index);
        self.expect_data(&leaf)?;
        leaf.lower = Some(lower);
        let wants_data = self.data_wanted;
        self.found = Some(Partial::Leaf(leaf));
        if wants_data { self.data(dir, name, lower) } else { Ok(()) }
    }

    /// The name of the index entry that an upper object is a link of.
    fn index_entry(&self, marks: &LeafMarks, stat: &Stat) -> Result<Option<Name>> {
        let (Some(index), Some(origin), Some(_)) = (&self.stack.index, &marks.origin, &marks.nlink) else {
            return Ok(None);
        };
        let Ok(entry) = IndexDir::name(&origin.encode()) else { return Ok(None) };
        let same = index.find(&entry)?.is_some_and(|found| (found.dev, found.ino) == (stat.dev, stat.ino));
        Ok(same.then_some(entry))
    }

    /// Enters an object at which the data of a metacopy file was looked for.
    fn data(&mut self, dir: &DirPart, name: &Name, stat: Stat) -> Result<()> {
        if !stat.is_file() {
            self.stop = true;
            return Ok(());
        }
        let marks = read_leaf_marks(&dir.place, name, &stat, dir.impure)?;
        let Some(Partial::Leaf(leaf)) = &mut self.found else { return Ok(()) };
        let file = LowerFile { place: Place { dir: dir.place.clone(), name: name.clone() }, stat };
        if leaf.upper {
            leaf.lower.get_or_insert(stat);
        }
        if marks.metacopy.is_some() {
            return match &marks.redirect {
                Some(redirect) => self.follow(self.want.last(), redirect),
                None => Ok(()),
            };
        }
        if let Some(meta) = &mut leaf.meta {
            leaf.stat.blocks = file.stat.blocks;
            meta.data = Data::At(file);
        }
        self.data_wanted = false;
        self.stop = true;
        Ok(())
    }

    fn answer(self) -> Result<Answer> {
        let mut leaf = match self.found {
            None => return Ok(Answer::Absent(Absent::Nowhere)),
            Some(Partial::Dir(dir)) => {
                let view = DirView { upper: dir.upper, redirect: dir.redirect, lowers: dir.lowers.into() };
                return Ok(Answer::Found(Found::Dir(FoundDir {
                    view,
                    stat: dir.top,
                    lower: dir.lower,
                    protection: dir.protection,
                    plain: dir.plain,
                })));
            }
            Some(Partial::Leaf(leaf)) => leaf,
        };
        if self.data_wanted
            && let Some(meta) = &mut leaf.meta
        {
            let Want::Path(path) = self.want else { return dangling(&leaf) };
            if self.stack.data_only.is_empty() {
                return dangling(&leaf);
            }
            meta.data = Data::Beneath(path.into());
            leaf.stat.blocks = leaf.stat.size.div_ceil(512);
        }
        Ok(Answer::Found(Found::Leaf(leaf)))
    }
}

fn dangling(leaf: &FoundLeaf) -> Result<Answer> {
    log::warn!("{:?} has its data in another layer, and no layer has it", leaf.place);
    Err(Errno::EIO)
}

fn make_leaf(place: Place, mut stat: Stat, marks: LeafMarks, upper: bool) -> (FoundLeaf, Option<Redirect>) {
    if marks.device {
        stat.mode = libc::S_IFCHR | (stat.mode & 0o7777);
        stat.rdev = 0;
    }
    // The search has yet to find the place of the data.
    let nowhere = || Data::Beneath(Arc::new([]));
    let redirect = marks.redirect;
    let meta = marks.metacopy.map(|metacopy| MetaFile {
        data: nowhere(),
        digest: metacopy.digest,
        blocks: marks.blocks,
        redirect: redirect.clone(),
    });
    let LeafMarks { origin, device, nlink, protection, bare, plain, .. } = marks;
    let leaf = FoundLeaf {
        place,
        stat,
        upper,
        named: false,
        origin,
        device,
        meta,
        index: None,
        nlink,
        lower: None,
        protection,
        bare,
        plain,
    };
    (leaf, redirect)
}

/// Whether a lower layer shows `name` in this directory, so that its removal needs a whiteout. The object that was
/// found under the name often [tells](super::FoundLeaf::is_below) without this search.
///
/// # Errors
/// What the layers' system calls say.
pub fn lower_has(dir: &DirView, name: &Name) -> Result<bool> {
    for part in dir.lowers.iter() {
        match look_up(&part.place, name, part.xattr_whiteouts)? {
            LookedUp::Nothing => {}
            LookedUp::Whiteout => return Ok(false),
            LookedUp::Object(_) => return Ok(true),
        }
    }
    Ok(false)
}

/// A layer's root as a part of a merged directory. True: the root hides the layers below it. `below`: there are such
/// layers.
///
/// # Errors
/// What the system calls say.
pub fn root_part(root: &Arc<DirPlace>, level: usize, below: bool) -> Result<(DirPart, bool)> {
    let fd = root.open()?;
    let marks = read_dir_marks(root, fd.as_fd(), c".", below)?;
    let part = DirPart { place: root.clone(), level, xattr_whiteouts: marks.xattr_whiteouts, impure: marks.impure };
    Ok((part, marks.opaque))
}
