//! The view that a command is about: a mounted one, which its daemon describes, or the layers of `-o`. Its layers are
//! opened to be looked at.

use std::ffi::OsString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use super::grammar;
use super::report::Failure;
use super::resolve::{self, Abilities, Manner};
use super::show;
use super::told::line;
use crate::base::Errno;
use crate::base::config::{Config, RedirectDir, UpperDirs, XattrPermissions};
use crate::base::described::Described;
use crate::sys::stat::stat_fd;
use crate::sys::{mounts, process};
use crate::tool::Layers;
use crate::union::{self, Range};

/// A view, and the paths in it that a command names.
pub struct View {
    /// Its layers.
    pub layers: Layers,
    /// Where the layers are.
    pub config: Config,
    /// The paths, from the root of the view.
    pub paths: Vec<PathBuf>,
}

impl View {
    /// Finds the view that `words` name: its mountpoint and paths in it, or paths only. Of paths the view is the one that
    /// the first of them lies in, and without any the one of the current directory. With `options` (the values of `-o`)
    /// all words are paths.
    ///
    /// # Errors
    /// There is no view; it does not tell; its layers cannot be read.
    pub fn find(options: &[OsString], words: &[PathBuf]) -> Result<Self, Failure> {
        Self::find_for(options, words, Range::default())
    }

    /// As [`View::find`], with the layers opened for these changes.
    ///
    /// # Errors
    /// As [`View::find`]; there are no such commits.
    pub fn find_for(options: &[OsString], words: &[PathBuf], range: Range) -> Result<Self, Failure> {
        let (config, paths) = Self::named(options, words)?;
        let layers = union::look_between(&config, range)?;
        let upper = config.upper.as_ref().map(|upper| format!("upperdir={}", upper.dir.display()));
        super::work::check_whole(&layers, &upper.unwrap_or_default())?;
        Ok(Self { layers, config, paths })
    }

    /// Where the layers of the view are that `words` name as for [`View::find`], and the paths in it.
    ///
    /// # Errors
    /// There is no view; it does not tell.
    pub fn named(options: &[OsString], words: &[PathBuf]) -> Result<(Config, Vec<PathBuf>), Failure> {
        if !options.is_empty() {
            let words_of = options.iter().flat_map(|value| grammar::split_options(value.as_bytes()));
            let abilities =
                Abilities { mounts_directly: process::is_admin(), ids_are_initial: process::ids_are_initial() };
            let words_of: Vec<_> = words_of.collect();
            let resolved = resolve::resolve(&words_of, None, Path::new("/"), Manner::default(), abilities)?;
            return Ok((resolved.config, words.iter().map(|path| plain(path)).collect()));
        }
        let Shown { dir, told, paths, .. } = Self::shown(words)?;
        let config = config(&told)?;
        check_uncovered(dir.as_fd(), &config)?;
        Ok((config, paths))
    }

    /// The mounted view that `words` name as for [`View::find`], and the paths in it.
    ///
    /// # Errors
    /// There is no view; it does not tell.
    pub fn shown(words: &[PathBuf]) -> Result<Shown, Failure> {
        let (first, others) = words.split_first().map_or((Path::new("."), words), |(first, others)| (first, others));
        // A view may be named by a symlink.
        let first = match first.canonicalize() {
            Ok(real) if Mounted::around(&real).is_some_and(|mount| mount.at == real) => real,
            _ => real(first)?,
        };
        let (dir, told) = show::view_at(nearest_dir(&first)).map_err(|failure| unfound(words.first(), failure))?;
        let mount = Mounted::around(&first);
        let mount = mount.ok_or_else(|| Failure::system("/proc/self/mountinfo", "the view is not in it", ""))?;
        let is_named = !words.is_empty() && mount.at == first;
        let mut paths: Vec<PathBuf> =
            if words.is_empty() { Vec::new() } else { mount.inside(&first).into_iter().collect() };
        for word in others {
            let path = if is_named && word.is_relative() { real(&mount.at.join(word))? } else { real(word)? };
            paths.push(mount.inside(&path).ok_or_else(|| {
                let reason = format!("it is not in the view at {}", mount.at.display());
                Failure::usage(word.display().to_string(), reason, "name paths of one view")
            })?);
        }
        let is_whole = !others.is_empty() && paths.iter().skip(1).any(|path| path.as_os_str().is_empty());
        paths.retain(|path| !path.as_os_str().is_empty());
        Ok(Shown { dir, told, paths, is_named, is_whole })
    }
}

/// Why no view was found by the first word of a command.
fn unfound(word: Option<&PathBuf>, failure: Failure) -> Failure {
    let is = |errno: Errno| word.filter(|word| word.symlink_metadata().is_err_and(|error| Errno::from(error) == errno));
    let hint = "plyfs status lists views and sessions";
    if let Some(word) = is(Errno::ENOTCONN) {
        return Failure::refused(line(word), "its daemon is gone", "plyfs umount it, and mount it again");
    }
    if let Some(word) = is(Errno::ENOENT) {
        return Failure::refused(line(word), "there is no such session, view or path", hint);
    }
    Failure {
        hint: "name a view: its mountpoint, or its layers by -o lowerdir=…,upperdir=…,workdir=…".into(),
        ..failure
    }
}

/// A mounted view, and the paths in it that a command names.
pub struct Shown {
    /// A directory in it.
    pub dir: OwnedFd,
    /// What its daemon tells of it.
    pub told: Described,
    /// The paths, from the root of the view.
    pub paths: Vec<PathBuf>,
    /// The first word was its mountpoint.
    pub is_named: bool,
    /// A word behind it means all of it.
    pub is_whole: bool,
}

/// The mount that a view was found by, which may show one of its directories only.
struct Mounted {
    at: PathBuf,
    root: PathBuf,
}

impl Mounted {
    /// The mount in which a path without symbolic links is.
    fn around(path: &Path) -> Option<Self> {
        let table = mounts::table().ok()?;
        // Of those at one place the last one is seen.
        let around = table.into_iter().filter(|mount| path.starts_with(&mount.at));
        let mount = around.max_by_key(|mount| mount.at.components().count())?;
        Some(Self { at: mount.at, root: plain(&mount.root) })
    }

    /// The path in the view.
    fn inside(&self, path: &Path) -> Option<PathBuf> {
        Some(plain(&self.root.join(path.strip_prefix(&self.at).ok()?)))
    }
}

/// The settings of a mounted view, as far as they say what its layers mean.
fn config(told: &Described) -> Result<Config, Failure> {
    let all = |key: &str| told.all(key).map(path_of).collect::<Vec<_>>();
    let has = |option: &str| told.all("option").any(|told| told == option.as_bytes());
    let trusted = told.all("marks").any(|marks| marks == b"trusted.overlay");
    let has_upper = told.all("upperdir").next().is_some();
    if trusted && has_upper && !(process::is_admin() && process::ids_are_initial()) {
        let reason = "its marks are attributes trusted.*, which only root can read";
        return Err(Failure::refused(first_of(told, "mountpoint"), reason, "run it as root"));
    }
    let upper = all("upperdir").pop().zip(all("workdir").pop()).map(|(dir, work)| UpperDirs { dir, work });
    let nofollow = has("redirect_dir=nofollow");
    Ok(Config {
        lowers: all("lowerdir"),
        data_only: all("datadir"),
        upper,
        userxattr: !trusted,
        redirect_dir: nofollow.then_some(RedirectDir::NoFollow),
        metacopy: (nofollow && has("metacopy=off")).then_some(false),
        index: has("index=off").then_some(false),
        xattr_permissions: has("xattr_permissions=parents").then_some(XattrPermissions::Parents),
        suid_view: trusted && !has("nosuid"),
        ..Config::default()
    })
}

/// Refuses to look at layers where the view itself stands in their place, as it does for who is in a session.
fn check_uncovered(view: BorrowedFd<'_>, config: &Config) -> Result<(), Failure> {
    let Ok(view) = stat_fd(view) else { return Ok(()) };
    let covered = |path: &&PathBuf| std::fs::metadata(path).is_ok_and(|layer| layer.dev() == view.dev);
    match config.lowers.iter().chain(&config.data_only).find(covered) {
        None => Ok(()),
        Some(path) => Err(Failure::refused(
            format!("lowerdir={}", path.display()),
            "the view is mounted over this layer, which cannot be seen from here",
            "run it outside of the session, or name the layers by -o where they can be seen",
        )),
    }
}

fn first_of(told: &Described, key: &str) -> String {
    told.all(key).next().map(super::report::printable).unwrap_or_default()
}

fn path_of(bytes: &[u8]) -> PathBuf {
    OsString::from_vec(bytes.to_vec()).into()
}

/// A path from the root of a view, or from `/` on, without that, `.` and `..`.
pub fn plain(path: &Path) -> PathBuf {
    path.components().fold(PathBuf::new(), |mut plain, part| {
        match part {
            Component::Normal(name) => plain.push(name),
            Component::ParentDir => _ = plain.pop(),
            _ => {}
        }
        plain
    })
}

/// A path without symbolic links above its last component, and without `..`, which leads where the kernel says. What is
/// deleted has no directory any more.
///
/// # Errors
/// `..` stands behind what is not there.
pub fn real(path: &Path) -> Result<PathBuf, Failure> {
    let failed = |error: std::io::Error| Failure::refused(path.display().to_string(), error.to_string(), "");
    let whole = std::path::absolute(path).map_err(failed)?;
    let Some(name) = whole.file_name() else { return whole.canonicalize().map_err(failed) };
    let (mut above, mut below) = (whole.parent(), vec![name.to_owned()]);
    while let Some(dir) = above {
        if let Ok(mut real) = dir.canonicalize() {
            real.extend(below.iter().rev());
            return Ok(real);
        }
        let Some(name) = dir.file_name() else {
            let reason = "`..` stands behind what is not there";
            return Err(Failure::refused(path.display().to_string(), reason, "name it without"));
        };
        below.push(name.to_owned());
        above = dir.parent();
    }
    Ok(whole)
}

/// The nearest directory at or above a path.
fn nearest_dir(path: &Path) -> &Path {
    let is_dir = |path: &&Path| path.symlink_metadata().is_ok_and(|stat| stat.is_dir());
    path.ancestors().find(is_dir).unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_in_a_view_is_plain() {
        for (path, expected) in [("/a/./b/", "a/b"), ("../../a", "a"), ("a/../b", "b"), ("/", ""), ("", "")] {
            assert_eq!(plain(Path::new(path)), Path::new(expected), "{path}");
        }
    }

    #[test]
    fn a_path_is_found_although_it_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        std::os::unix::fs::symlink("nowhere", root.join("link")).unwrap();
        std::os::unix::fs::symlink(&root, root.join("here")).unwrap();
        for (path, expected) in [("link", "link"), ("here/link", "link"), ("here/gone/x", "gone/x"), (".", "")] {
            let expected = if expected.is_empty() { root.clone() } else { root.join(expected) };
            assert_eq!(real(&root.join(path)).unwrap(), expected, "{path}");
        }
        assert_eq!(nearest_dir(&root.join("gone/x")), root);
    }
}
