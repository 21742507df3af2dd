//! `plyfs layer export`: layers as archives and images that other programs take.

use std::ffi::OsString;
use std::fs::File;
use std::io::{IsTerminal, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use clap::{ArgGroup, Args, ValueEnum};

use super::super::super::commands::print;
use super::super::super::daemon::say;
use super::super::super::describe::layer_path;
use super::super::super::json::{member, quoted};
use super::super::super::progress::Spinner;
use super::super::super::report::Failure;
use super::super::super::show;
use super::super::super::told::{self, bytes, grouped};
use super::super::changes::{self, Part};
use crate::tool::export::{
    self, Compression, Digests, Export, Exported, Image, LeftOut, OnItsWay, Place, Squeeze, Squeezed, Which, hex,
};

/// The exit status if something had to be left out.
const LOSSES: u8 = 4;
/// The name of an image that was given none.
const TAG: &str = "latest";

/// layers as OCI images and archives: whole files, `.wh.` names, the same bytes each time
#[derive(Debug, Args)]
#[command(
    group = ArgGroup::new("to").args(["tar", "oci"]).required(true),
    after_help = "\
Of a view, --oci has each of its layers, and --tar the upper one; of a session, both have what it
has changed. Layers that are named must be followed by those that they stand on: only the first of
them is in a --tar. No time is later than $SOURCE_DATE_EPOCH, if that is set

Exit status: 0 done; 1 not done; 2 usage; 4 done, but something an archive cannot hold is left out

Examples:
  plyfs layer export --oci image:v2 ~/view
  plyfs layer export --tar changes.tar ~/view
  plyfs layer export --tar - --merged -o lowerdir=app:base | podman import - app"
)]
pub struct Give {
    /// A mountpoint or a session, or layers, the topmost first (the view of the current directory)
    #[arg(value_name = "VIEW|LAYER")]
    words: Vec<PathBuf>,
    /// The layers of a view that is not mounted, as `mount` takes them
    #[arg(short = 'o', value_name = "OPTION,…", conflicts_with = "words")]
    options: Vec<OsString>,
    /// Write one layer as an archive (-: to standard output)
    #[arg(long, value_name = "FILE")]
    tar: Option<PathBuf>,
    /// Write an OCI image layout, or add an image to it; TAG is latest if there is none
    #[arg(long, value_name = "DIR[:TAG]")]
    oci: Option<OsString>,
    /// One layer with all that is seen, and nothing that is hidden
    #[arg(long)]
    merged: bool,
    /// How layers are compressed (gzip with --oci, none with --tar)
    #[arg(long, value_name = "HOW")]
    compress: Option<How>,
    /// Print one JSON object a layer
    #[arg(long)]
    json: bool,
    /// Where sessions are kept ($XDG_STATE_HOME/plyfs)
    #[arg(long, value_name = "DIR")]
    store: Option<PathBuf>,
}

/// How layers are compressed.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum How {
    /// Read by everything
    Gzip,
    /// Smaller and faster than gzip; older programs do not read it
    Zstd,
    /// Not at all
    None,
}

/// A layer that was written.
struct Written {
    squeezed: Squeezed,
    exported: Exported,
}

impl Give {
    /// Writes it.
    ///
    /// # Errors
    /// There is no view; it cannot be read; it cannot be written.
    pub fn run(self) -> Result<u8, Failure> {
        let until = epoch()?;
        let mut parts = self.parts()?;
        let of_session = parts.iter().any(Part::is_of_session);
        let levels = |part: &Part| export::levels(&part.layers);
        let which: Vec<Which> = match parts.first() {
            _ if self.merged && of_session => {
                let reason = "a session has the whole machine below its changes";
                return Err(Failure::usage("--merged", reason, "leave it out"));
            }
            _ if self.merged => vec![Which::Merged],
            Some(part) if self.oci.is_some() && !of_session => levels(part).into_iter().map(Which::Level).collect(),
            Some(part) => vec![Which::Level(self.topmost(part)?)],
            None => return Err(Failure::refused("the session", "it has changed nothing", "")),
        };
        self.check_outside(&parts, &which)?;
        let _spinner = Spinner::new("exporting");
        let written = match (&self.tar, &self.oci) {
            (Some(file), _) => vec![self.write_tar(file, &mut parts, &which, until)?],
            (None, Some(place)) => self.write_image(place_of(place), &mut parts, &which, until)?,
            (None, None) => Vec::new(),
        };
        self.tell(&written)
    }

    /// The views that are meant.
    fn parts(&self) -> Result<Vec<Part>, Failure> {
        let is_view = match self.words.as_slice() {
            [] => true,
            [one] => changes::named(one, self.store.clone())?.is_some() || is_mountpoint(one),
            _ => false,
        };
        let options = if is_view { self.options.clone() } else { vec![lowerdir(&self.words)?] };
        let words = if is_view { self.words.as_slice() } else { &[] };
        changes::find(&options, words, self.store.clone()).map(|(parts, _)| parts)
    }

    /// The layer that an archive has.
    fn topmost(&self, part: &Part) -> Result<usize, Failure> {
        let all = export::levels(&part.layers);
        // Whoever names layers says which one is meant; those of a view without an upper layer are all alike.
        match all.last() {
            Some(level) if *level == 0 || all.len() == 1 || !self.words.is_empty() && self.options.is_empty() => {
                Ok(*level)
            }
            _ => Err(Failure::usage(
                "--tar",
                "the view has no upper layer, and an archive is one layer",
                "add --merged for all that is seen, or name an image by --oci",
            )),
        }
    }

    fn compression(&self) -> Compression {
        match self.compress {
            Some(How::Gzip) => Compression::Gzip,
            Some(How::Zstd) => Compression::Zstd,
            Some(How::None) => Compression::None,
            None if self.oci.is_some() => Compression::Gzip,
            None => Compression::None,
        }
    }

    /// Writes one layer.
    fn write(
        &self,
        out: impl Write + Send + 'static,
        parts: &mut [Part],
        which: Which,
        until: Option<i64>,
    ) -> Result<Written, Failure> {
        let digests = self.oci.is_some() || self.json;
        let mut squeeze = Squeeze::new(out, self.compression(), digests).map_err(|error| self.broken(&error))?;
        let mut export = Export::new(&mut squeeze, until, self.tar.is_some());
        let added = parts.iter_mut().try_for_each(|part| {
            let before = part.before.as_os_str().as_bytes().to_vec();
            export.add(&mut part.layers, which, &before)
        });
        let exported =
            added.map_err(|failed| Failure::refused(told::line(&failed.path), failed.why, "nothing was written"));
        let exported =
            exported.and_then(|()| export.finish().map(|(_, exported)| exported).map_err(|error| self.broken(&error)));
        // If the output has failed, that is the reason.
        let squeezed = squeeze.finish().map_err(|error| self.broken(&error))?;
        exported.map(|exported| Written { squeezed, exported })
    }

    /// An archive that was begun.
    fn broken(&self, error: &std::io::Error) -> Failure {
        let is_given_away = self.tar.as_deref() == Some(Path::new("-"));
        let hint = if is_given_away { "the archive is not whole" } else { "nothing was changed there" };
        Failure::refused("the archive", error.to_string(), hint)
    }

    fn write_tar(
        &self,
        to: &Path,
        parts: &mut [Part],
        which: &[Which],
        until: Option<i64>,
    ) -> Result<Written, Failure> {
        let which = which.first().copied().unwrap_or(Which::Merged);
        if to == Path::new("-") {
            let stdout = std::io::stdout();
            if stdout.is_terminal() {
                return Err(Failure::usage("--tar -", "standard output is a terminal", "redirect it"));
            }
            return self.write(stdout, parts, which, until);
        }
        let failed = |error: std::io::Error| output(&told::line(to), &error);
        // A symlink stays.
        let to = &to.canonicalize().unwrap_or_else(|_| to.to_owned());
        let old = std::fs::metadata(to).ok();
        if old.as_ref().is_some_and(|old| !old.is_file() && !old.is_dir()) {
            // A device or a pipe takes the bytes, and stays.
            let out = File::options().write(true).open(to).map_err(failed)?;
            return self.write(out, parts, which, until);
        }
        let name = to.file_name().ok_or_else(|| Failure::usage("--tar", "it is no name of a file", ""))?;
        let undone = to.with_file_name(OsString::from_vec([&b"."[..], name.as_bytes(), b".undone"].concat()));
        // What is left of an export that was broken off; nobody else's symlink is followed.
        let _ = std::fs::remove_file(&undone);
        let file = File::create_new(&undone).map_err(failed)?;
        let again = file.try_clone().map_err(failed)?;
        let written = self.write(OnItsWay::new(file), parts, which, until).and_then(|written| {
            let kept = old.map_or(Ok(()), |old| again.set_permissions(old.permissions()));
            kept.and_then(|()| again.sync_all()).and_then(|()| std::fs::rename(&undone, to)).map_err(failed)?;
            Ok(written)
        });
        written.inspect_err(|_| _ = std::fs::remove_file(&undone))
    }

    /// Refuses to write into a layer that is read, or into the view: the archive would have itself in it.
    fn check_outside(&self, parts: &[Part], which: &[Which]) -> Result<(), Failure> {
        let to = match (&self.tar, &self.oci) {
            (Some(file), _) if file != Path::new("-") => file.clone(),
            (None, Some(place)) => place_of(place).dir,
            _ => return Ok(()),
        };
        let id = |path: &Path| {
            std::fs::metadata(path).ok().filter(|stat| stat.is_dir()).map(|stat| (stat.dev(), stat.ino()))
        };
        let mut roots: Vec<(u64, u64)> = self.words.iter().filter_map(|word| id(word)).collect();
        for (part, which) in parts.iter().flat_map(|part| which.iter().map(move |which| (part, *which))) {
            let found = export::roots(&part.layers, which);
            roots.extend(found.map_err(|errno| Failure::refused("the layers", errno.to_string(), ""))?);
        }
        let whole = std::path::absolute(&to).map_err(|error| output(&told::line(&to), &error))?;
        let real = whole.ancestors().find_map(|path| path.canonicalize().ok()).unwrap_or_default();
        match real.ancestors().filter_map(id).any(|dir| roots.contains(&dir)) {
            true => Err(Failure::usage(told::line(&to), "it lies in what is exported", "write it elsewhere")),
            false => Ok(()),
        }
    }

    fn write_image(
        &self,
        place: Place,
        parts: &mut [Part],
        which: &[Which],
        until: Option<i64>,
    ) -> Result<Vec<Written>, Failure> {
        let what = told::line(&place.dir);
        let failed = |error: std::io::Error| output(&what, &error);
        let mut image = Image::new(place).map_err(failed)?;
        let mut all = Vec::new();
        for &which in which {
            let blob = image.blob().map_err(failed)?;
            let written = self.write(blob.output().map_err(failed)?, parts, which, until)?;
            image.add(blob, self.compression(), written.squeezed.clone()).map_err(failed)?;
            all.push(written);
        }
        let digest = image.finish().map_err(failed)?;
        if !self.json && self.oci.is_some() {
            print(&format!("{digest}\n"))?;
        }
        Ok(all)
    }

    fn tell(&self, written: &[Written]) -> Result<u8, Failure> {
        let mut losses = 0;
        for Written { squeezed, exported } in written {
            for LeftOut { path, what, loss } in &exported.left_out {
                losses = losses.max(if *loss { LOSSES } else { 0 });
                say(&format!("{}: left out: {what}", told::line(path)));
            }
            let line = self.line(squeezed, exported);
            if self.tar.as_deref() == Some(Path::new("-")) { say(line.trim_end()) } else { print(&line)? }
        }
        Ok(losses)
    }

    fn line(&self, squeezed: &Squeezed, exported: &Exported) -> String {
        let Squeezed { digests, plain_size, size } = squeezed;
        let digests = digests.as_ref();
        let digest = |digest: &[u8]| format!("sha256:{}", hex(digest));
        if !self.json {
            let layer = digests.map_or_else(String::new, |digests| format!(" {}", digest(&digests.plain)));
            let entries = grouped(exported.entries);
            return format!("layer{layer}: {entries} entries, {} in {}\n", bytes(*plain_size), bytes(*size));
        }
        let of = |of: fn(&Digests) -> &[u8; 32]| quoted(&digests.map_or_else(String::new, |all| digest(of(all))));
        let left = exported.left_out.iter().map(|left| {
            format!("{{{},\"what\":{}}}", member("path", left.path.as_os_str().as_bytes()), quoted(left.what))
        });
        format!(
            "{{\"v\":1,\"diff_id\":{},\"plain_bytes\":{plain_size},\"digest\":{},\"bytes\":{size},\"entries\":{},\"left_out\":[{}]}}\n",
            of(|digests| &digests.plain),
            of(|digests| &digests.stored),
            exported.entries,
            left.collect::<Vec<_>>().join(",")
        )
    }
}

fn output(what: &str, error: &std::io::Error) -> Failure {
    Failure::refused(what, error.to_string(), "nothing was changed there")
}

/// Whether a view is mounted there.
fn is_mountpoint(word: &Path) -> bool {
    let Ok(real) = word.canonicalize() else { return false };
    show::view_at(&real).is_ok_and(|(_, told)| told.all("mountpoint").any(|at| at == real.as_os_str().as_bytes()))
}

/// Layers as `mount` takes them.
fn lowerdir(layers: &[PathBuf]) -> Result<OsString, Failure> {
    let path = |layer: &PathBuf| match std::path::absolute(layer) {
        Ok(path) => Ok(layer_path(&path)),
        Err(error) => Err(output(&told::line(layer), &error)),
    };
    let paths = layers.iter().map(path).collect::<Result<Vec<_>, _>>()?;
    Ok(OsString::from_vec([&b"lowerdir="[..], &paths.join(&b':')].concat()))
}

/// The directory and the tag of `DIR[:TAG]`.
fn place_of(word: &OsString) -> Place {
    let bytes = word.as_bytes();
    let parted = bytes.iter().rposition(|byte| *byte == b':').and_then(|at| {
        let tag = std::str::from_utf8(bytes.get(at + 1..)?).ok()?;
        let is_tag = !tag.is_empty() && !tag.contains('/') && at > 0;
        is_tag.then(|| Some((bytes.get(..at)?, tag)))?
    });
    let (dir, tag) = parted.unwrap_or((bytes, TAG));
    Place { dir: OsString::from_vec(dir.to_vec()).into(), tag: tag.to_owned() }
}

/// `SOURCE_DATE_EPOCH` ([its specification](https://reproducible-builds.org/specs/source-date-epoch/)).
fn epoch() -> Result<Option<i64>, Failure> {
    let Some(value) = std::env::var_os("SOURCE_DATE_EPOCH") else { return Ok(None) };
    let seconds = value.to_str().and_then(|text| text.parse().ok());
    let wrong = || Failure::usage("SOURCE_DATE_EPOCH", "it is no number of seconds", "as in 1700000000");
    seconds.map(Some).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_stands_behind_the_last_colon() {
        for (word, dir, tag) in [
            ("d", "d", "latest"),
            ("d:v1", "d", "v1"),
            ("a:b/d", "a:b/d", "latest"),
            ("a:b/d:v:2", "a:b/d:v", "2"),
            ("d:", "d:", "latest"),
            (":x", ":x", "latest"),
        ] {
            let expected = Place { dir: dir.into(), tag: tag.to_owned() };
            assert_eq!(place_of(&word.into()), expected, "{word}");
        }
    }
}
