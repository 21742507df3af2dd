//! What a command on changes looks at: one view, or the file systems of a session, each with the place where a path in it
//! begins.

use std::ffi::OsString;
use std::path::{Component, Path, PathBuf};

use super::super::report::Failure;
use super::super::told::line;
use super::super::view::{View, plain, real};
use crate::base::Errno;
use crate::base::config::{Config, UpperDirs, XattrPermissions};
use crate::session::{Place, Session, Store};
use crate::sys::{mounts, namespace, process};
use crate::tool::{self, Change, How, Layers, Letter};
use crate::union::Range;

/// One view.
pub struct Part {
    /// What stands before its paths.
    pub before: PathBuf,
    /// Its layers.
    pub layers: Layers,
    /// Where the upper one is.
    pub upper: PathBuf,
    /// Its lower layer is the machine, which goes on.
    of_session: bool,
}

impl Part {
    /// Whether it is a file system of a session.
    pub fn is_of_session(&self) -> bool {
        self.of_session
    }
}

/// A change, as it is told, and as it is in its view.
pub struct Seen<'a> {
    /// With whole paths.
    pub told: Change,
    /// With paths in the view.
    pub own: Change,
    /// The view.
    pub layers: &'a Layers,
}

/// What was found.
pub struct Found<'a> {
    /// The changes.
    pub changes: Vec<Seen<'a>>,
    /// What could not be compared, and why.
    pub troubles: Vec<(PathBuf, Errno)>,
}

/// The views that `words` name, and the paths in them: a session's name and paths, or as for [`View::find`].
///
/// # Errors
/// There is no view, or it cannot be read.
pub fn find(
    options: &[OsString],
    words: &[PathBuf],
    store: Option<PathBuf>,
) -> Result<(Vec<Part>, Vec<PathBuf>), Failure> {
    find_for(options, words, store, Range::default())
}

/// As [`find`], with the layers opened for these changes.
///
/// # Errors
/// As [`find`]; there are no such commits.
pub fn find_for(
    options: &[OsString],
    words: &[PathBuf],
    store: Option<PathBuf>,
    range: Range,
) -> Result<(Vec<Part>, Vec<PathBuf>), Failure> {
    if options.is_empty()
        && let Some((first, paths)) = words.split_first()
        && let Some(session) = named(first, store)?
    {
        let paths = paths.iter().map(|path| whole(path)).collect::<Result<_, _>>()?;
        return Ok((of_session_for(&session, range)?, paths));
    }
    let view = View::find_for(options, words, range)?;
    let upper = view.config.upper.as_ref().map(|upper| upper.dir.clone()).unwrap_or_default();
    Ok((vec![Part { before: PathBuf::new(), layers: view.layers, upper, of_session: false }], view.paths))
}

/// A path from `/` on, without it; `.` is the current directory, and `..` leads where it does outside of the session.
///
/// # Errors
/// `..` stands behind what is not there.
pub fn whole(path: &Path) -> Result<PathBuf, Failure> {
    if path.components().any(|part| part == Component::ParentDir) {
        return Ok(plain(&real(path)?));
    }
    Ok(std::path::absolute(path).map(|path| plain(&path)).unwrap_or_default())
}

/// The session that a word names; one with a slash is a path.
///
/// # Errors
/// The store cannot be read.
pub fn named(word: &Path, store: Option<PathBuf>) -> Result<Option<Session>, Failure> {
    let is_name = word.components().count() == 1 && matches!(word.components().next(), Some(Component::Normal(_)));
    let is_plain = word.to_str().is_some_and(|word| !word.contains('/'));
    if !is_name || !is_plain {
        return Ok(None);
    }
    let sessions = Store::find_all(store).map_err(|errno| Failure::refused("--store", errno.to_string(), ""))?;
    let found = sessions.into_iter().find(|session| Path::new(&session.name) == word);
    if let Some(session) = &found {
        let hint = "a step of all its file systems was broken off, and must be ended first";
        session.finish_step().map_err(|errno| Failure::refused(session.name.clone(), errno.to_string(), hint))?;
    }
    Ok(found)
}

/// The file systems of a session that have changes, and are mounted where they were.
///
/// # Errors
/// This process is in the session; a layer cannot be read.
pub fn of_session(session: &Session) -> Result<Vec<Part>, Failure> {
    of_session_for(session, Range::default())
}

fn of_session_for(session: &Session, range: Range) -> Result<Vec<Part>, Failure> {
    let places = places(session)?;
    let range = Range { of_session: true, ..range };
    // Not all of its file systems have each of its commits, but one of them has.
    for number in [range.from, range.to].into_iter().flatten().filter(|number| *number > 0) {
        if !places.iter().any(|place| session.has_commit_at(place, number)) {
            let reason = format!("it has no commit {number}");
            return Err(Failure::refused(session.name.clone(), reason, "plyfs log tells them"));
        }
    }
    let has_commits = |place: &Place| range.from.is_some() && session.has_commits_at(place);
    let changed = places.iter().filter(|place| session.has_changes_at(place) || has_commits(place));
    changed.map(|place| part_for(session, place, range)).collect()
}

/// The file system of a session that a path from `/` on is in, and the path there; `None`: the session covers none.
///
/// # Errors
/// As [`of_session`].
pub fn at(session: &Session, path: &Path) -> Result<Option<(Part, PathBuf)>, Failure> {
    let inside = |place: &Place| path.strip_prefix(plain(&place.at)).map(Path::to_owned).ok();
    let all = places(session)?;
    let found = all.iter().filter_map(|place| Some((place, inside(place)?)));
    // The innermost one.
    match found.min_by_key(|(_, rest)| rest.components().count()) {
        Some((place, rest)) => Ok(Some((part(session, place)?, rest))),
        None => Ok(None),
    }
}

/// The file systems of a session that are mounted where they were, as seen from outside.
fn places(session: &Session) -> Result<Vec<Place>, Failure> {
    let failed = |errno: Errno| Failure::refused(session.name.clone(), errno.to_string(), "");
    check_outside(session)?;
    let mut places = session.places().map_err(failed)?;
    places.retain(is_there);
    Ok(places)
}

/// Refuses to look at a session from within.
///
/// # Errors
/// This process is in it.
pub fn check_outside(session: &Session) -> Result<(), Failure> {
    let inside = format!("plyfs-run:{}:", session.name);
    let table = mounts::table().map_err(|errno| Failure::refused(session.name.clone(), errno.to_string(), ""))?;
    if table.iter().any(|mount| mount.source.to_string_lossy().starts_with(&inside)) {
        let reason = "its layers cannot be seen from within";
        return Err(Failure::refused(session.name.clone(), reason, "run it outside of the session"));
    }
    Ok(())
}

/// Whether the file system is mounted where it was.
pub fn is_there(place: &Place) -> bool {
    namespace::file_system_at(&place.at).is_ok_and(|id| id == place.id)
}

/// One file system of a session.
///
/// # Errors
/// A layer cannot be read.
pub fn part(session: &Session, place: &Place) -> Result<Part, Failure> {
    part_for(session, place, Range::default())
}

fn part_for(session: &Session, place: &Place, range: Range) -> Result<Part, Failure> {
    let config = config_of(session, place);
    let upper = config.upper.as_ref().map(|upper| upper.dir.clone()).unwrap_or_default();
    let layers = crate::union::look_between(&config, range)?;
    check_whole(&layers, &session.name)?;
    Ok(Part { before: plain(&place.at), layers, upper, of_session: true })
}

/// Refuses layers between which an apply was broken off: they show neither what was nor what is to be.
///
/// # Errors
/// It was broken off.
pub fn check_whole(layers: &Layers, what: &str) -> Result<(), Failure> {
    let pending = layers.pending_apply().map_err(|errno| Failure::refused(what, errno.to_string(), ""))?;
    if pending {
        let reason = "its changes were being applied to the lower directory, which was broken off";
        return Err(Failure::refused(what, reason, "go on by plyfs apply --resume"));
    }
    Ok(())
}

/// The settings for a file system of a session.
pub fn config_of(session: &Session, place: &Place) -> Config {
    let is_root = process::is_admin() && process::ids_are_initial();
    let (dir, work) = session.dirs(place);
    Config {
        lowers: vec![place.at.clone()],
        upper: Some(UpperDirs { dir, work }),
        userxattr: !is_root,
        suid_view: is_root,
        xattr_permissions: (!is_root).then_some(XattrPermissions::Parents),
        ..Config::default()
    }
}

/// Refuses a path that no layer has, which a slip of the keyboard may have made.
///
/// # Errors
/// There is one.
pub fn check_there(parts: &[Part], paths: &[PathBuf]) -> Result<(), Failure> {
    for path in paths {
        let inside = parts.iter().filter_map(|part| Some((part, path.strip_prefix(&part.before).ok()?)));
        // The innermost file system has it.
        let Some((part, rest)) = inside.min_by_key(|(_, rest)| rest.components().count()) else { continue };
        if tool::whereabouts(&part.layers, rest).is_ok_and(|found| found.parts.is_empty()) {
            return Err(Failure::refused(line(path), "no layer has it", "name a path in the view"));
        }
    }
    Ok(())
}

/// Compares them. Only what is at or below one of `paths` is meant, if there are any, and what takes away, moves or replaces a
/// directory that one of them is in. `counts`: files in renamed and deleted
/// directories are counted.
///
/// # Errors
/// An upper layer cannot be read.
pub fn compare<'a>(parts: &'a [Part], paths: &[PathBuf], counts: bool) -> Result<Found<'a>, Failure> {
    let is_meant = |path: &Path| paths.is_empty() || paths.iter().any(|of| path.starts_with(of));
    let mut all = Found { changes: Vec::new(), troubles: Vec::new() };
    for part in parts {
        let found =
            tool::diff(&part.layers, How { counts, in_use: part.of_session, alone: false }).map_err(|errno| {
                let upper = format!("upperdir={}", part.upper.display());
                Failure::refused(upper, errno.to_string(), "it must be readable")
            })?;
        let whole = |path: &PathBuf| part.before.join(path);
        for own in found.changes {
            let told = Change { path: whole(&own.path), was: own.was.as_ref().map(whole), ..own.clone() };
            let at = || [Some(&told.path), told.was.as_ref()].into_iter().flatten();
            let is_whole = matches!(told.letter, Letter::Deleted | Letter::Renamed | Letter::Retyped);
            let has = |dir: &PathBuf| paths.iter().any(|path| path.starts_with(dir));
            if at().any(|path| is_meant(path) || (is_whole && has(path))) {
                all.changes.push(Seen { told, own, layers: &part.layers });
            }
        }
        let troubles = found.troubles.into_iter().map(|trouble| (whole(&trouble.path), trouble.errno));
        all.troubles.extend(troubles.filter(|(path, _)| is_meant(path)));
    }
    Ok(all)
}
