//! Where layers come from: an OCI image layout (a directory, or an archive of one), an archive by `docker save`, or an archive
//! that is a layer itself.

use std::collections::HashMap;
use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;
use sha2::{Digest as _, Sha256};
use tar::EntryType;

use super::archive::{Archive, wrong};
use crate::sys::path::{OFlags, open_beneath, open_root};
use crate::sys::stat::stat_fd;
use crate::tool::export::{TAG, architecture, hex};

/// The most bytes of a description.
const MOST_JSON: u64 = 4 << 20;
/// How deep an index may lie in an index.
const MOST_NESTED: usize = 3;

/// An image or a layer, and which one of several.
#[derive(Debug, Clone)]
pub struct Source {
    /// A directory or an archive.
    pub path: PathBuf,
    /// The name of the image in it; `None`: the only one, or `latest`.
    pub tag: Option<String>,
}

/// A layer that can be read.
pub(super) struct Layer {
    blobs: Blobs,
    name: String,
    /// The digest of its bytes as they are stored.
    pub digest: Option<String>,
    /// The digest of its plain bytes.
    pub diff_id: Option<String>,
}

impl Layer {
    /// # Errors
    /// What opening says.
    pub fn open(&self) -> io::Result<Box<dyn Read + Send>> {
        self.blobs.open(&self.name)
    }
}

/// Where each file is in an archive, and how long it is.
type Members = HashMap<Vec<u8>, (u64, u64)>;

/// The files of an image.
#[derive(Clone)]
enum Blobs {
    Dir(Arc<std::os::fd::OwnedFd>),
    /// An archive of them.
    Archive(Arc<File>, Arc<Members>),
    /// The file itself.
    One(Arc<File>),
}

/// A part of a file.
struct Section {
    file: Arc<File>,
    at: u64,
    left: u64,
}

impl Read for Section {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        let len = self.file.read_at(buffer.get_mut(..most).unwrap_or_default(), self.at)?;
        self.at += len as u64;
        self.left -= len as u64;
        Ok(len)
    }
}

impl Blobs {
    fn open(&self, name: &str) -> io::Result<Box<dyn Read + Send>> {
        match self {
            Self::Dir(dir) => {
                let path = CString::new(name)?;
                let file = open_beneath(dir.as_fd(), &path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY)?;
                if stat_fd(file.as_fd())?.is_file() {
                    Ok(Box::new(File::from(file)))
                } else {
                    Err(wrong("it is no file"))
                }
            }
            Self::Archive(file, members) => {
                let (at, left) = *members.get(name.as_bytes()).ok_or(io::ErrorKind::NotFound)?;
                Ok(Box::new(Section { file: file.clone(), at, left }))
            }
            Self::One(file) => Ok(Box::new(Section { file: file.clone(), at: 0, left: u64::MAX })),
        }
    }

    fn has(&self, name: &str) -> bool {
        !matches!(self, Self::One(_)) && self.open(name).is_ok()
    }

    fn bytes(&self, name: &str) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.open(name)?.take(MOST_JSON + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > MOST_JSON { Err(wrong("a description is too large")) } else { Ok(bytes) }
    }

    fn json(&self, name: &str) -> io::Result<Value> {
        Ok(serde_json::from_slice(&self.bytes(name)?)?)
    }

    /// What a descriptor refers to, which must have the digest that it says.
    fn described(&self, of: &Value) -> io::Result<Value> {
        let digest = digest_of(of)?;
        let bytes = self.bytes(&blob(&digest)?)?;
        let found = format!("sha256:{}", hex(&Sha256::digest(&bytes)));
        if found != digest {
            return Err(wrong(&format!("{digest} has another digest")));
        }
        Ok(serde_json::from_slice(&bytes)?)
    }
}

fn digest_of(descriptor: &Value) -> io::Result<String> {
    descriptor
        .get("digest")
        .and_then(Value::as_str)
        .map(str::to_owned)
        .ok_or_else(|| wrong("a descriptor without a digest"))
}

/// The file that has a digest.
fn blob(digest: &str) -> io::Result<String> {
    let is_hex =
        |hex: &str| hex.len() == 64 && hex.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
    let hex = digest.strip_prefix("sha256:").filter(|hex| is_hex(hex));
    hex.map(|hex| format!("blobs/sha256/{hex}")).ok_or_else(|| wrong("a digest other than of SHA-256"))
}

/// The layers of a source, the topmost first.
///
/// # Errors
/// It is none; there is no image of that name; what reading says.
pub(super) fn layers(source: &Source) -> io::Result<Vec<Layer>> {
    let mut layers = lowest_first(source)?;
    layers.reverse();
    Ok(layers)
}

fn lowest_first(source: &Source) -> io::Result<Vec<Layer>> {
    let blobs = open(&source.path)?;
    if blobs.has("index.json") {
        return of_layout(&blobs, source.tag.as_deref());
    }
    if blobs.has("manifest.json") {
        return of_docker(&blobs, source.tag.as_deref());
    }
    match blobs {
        Blobs::Dir(_) => Err(wrong("it is no OCI image layout")),
        Blobs::Archive(file, _) | Blobs::One(file) => {
            let (digest, diff_id) = (None, None);
            Ok(vec![Layer { blobs: Blobs::One(file), name: String::new(), digest, diff_id }])
        }
    }
}

fn open(path: &Path) -> io::Result<Blobs> {
    if path.is_dir() {
        return Ok(Blobs::Dir(Arc::new(open_root(path)?)));
    }
    let file = Arc::new(File::open(path)?);
    if !file.metadata()?.is_file() {
        return Err(wrong("it is neither a directory nor a file"));
    }
    let mut begin = [0; 4];
    let len = file.read_at(&mut begin, 0)?;
    let is_plain = len == 4 && !begin.starts_with(&[0x1f, 0x8b]) && begin != [0x28, 0xb5, 0x2f, 0xfd];
    match if is_plain { members(&file)? } else { None } {
        Some(members) => Ok(Blobs::Archive(file, Arc::new(members))),
        None => Ok(Blobs::One(file)),
    }
}

/// Counts what is read, and passes over what need not be.
struct Seeking {
    file: Arc<File>,
    at: u64,
}

impl Read for Seeking {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let len = self.file.read_at(buffer, self.at)?;
        self.at += len as u64;
        Ok(len)
    }
}

/// The files in the archive of an image; `None`: it is no image.
fn members(file: &Arc<File>) -> io::Result<Option<Members>> {
    let (mut files, mut links) = (HashMap::new(), Vec::new());
    let mut archive = Archive::new(Seeking { file: file.clone(), at: 0 });
    while let Some(entry) = archive.next()? {
        let path = entry.path.strip_prefix(b"./").unwrap_or(&entry.path).to_vec();
        match entry.kind {
            EntryType::Regular => drop(files.insert(path, (archive.get_mut().at, entry.size))),
            EntryType::Symlink | EntryType::Link => links.push((path, entry.kind, entry.link.clone())),
            _ => {}
        }
        let end = archive.get_mut().at.checked_add(entry.rest()).ok_or_else(|| wrong("a size"))?;
        archive.get_mut().at = end;
    }
    if !files.contains_key(&b"index.json"[..]) && !files.contains_key(&b"manifest.json"[..]) {
        return Ok(None);
    }
    // Older dockers have a layer that is there already as a link to it.
    for (path, kind, target) in links {
        let above = path.iter().rposition(|byte| *byte == b'/').and_then(|at| path.get(..=at)).unwrap_or_default();
        let whole = if kind == EntryType::Symlink { [above, &target].concat() } else { target };
        if let Some(place) = files.get(&plain(&whole)).copied() {
            files.insert(path, place);
        }
    }
    Ok(Some(files))
}

/// A path without `.` and `..`.
fn plain(path: &[u8]) -> Vec<u8> {
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in path.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join(&b'/')
}

fn array<'a>(of: &'a Value, key: &str) -> io::Result<&'a [Value]> {
    let array = of.get(key).and_then(Value::as_array).map(Vec::as_slice);
    array.ok_or_else(|| wrong(&format!("a description without a list {key}")))
}

/// One of several images.
fn chosen<'a>(all: &'a [Value], tag: Option<&str>, names: impl Fn(&Value) -> Vec<String>) -> io::Result<&'a Value> {
    let is = |one: &&Value, tag: &str| names(one).iter().any(|name| name == tag || name.ends_with(&format!(":{tag}")));
    let found = match (tag, all) {
        (None, [one]) => Some(one),
        (tag, all) => all.iter().find(|one| is(one, tag.unwrap_or("latest"))),
    };
    found.ok_or_else(|| {
        let names: Vec<_> = all.iter().flat_map(names).collect();
        wrong(&format!("there is no such image in it, but: {}", names.join(" ")))
    })
}

fn of_layout(blobs: &Blobs, tag: Option<&str>) -> io::Result<Vec<Layer>> {
    let index = blobs.json("index.json")?;
    let name = |one: &Value| {
        let name = one.get("annotations").and_then(|all| all.get(TAG)).and_then(Value::as_str);
        name.map(str::to_owned).into_iter().collect::<Vec<_>>()
    };
    let mut manifest = blobs.described(chosen(array(&index, "manifests")?, tag, name)?)?;
    for _ in 0..MOST_NESTED {
        let Ok(all) = array(&manifest, "manifests") else { break };
        let is_ours = |one: &&Value| {
            let of = |key| one.get("platform").and_then(|platform| platform.get(key)).and_then(Value::as_str);
            of("architecture") == Some(architecture()) && of("os") == Some("linux")
        };
        let ours = all.iter().find(is_ours).ok_or_else(|| wrong("there is no image for this machine in it"))?;
        manifest = blobs.described(ours)?;
    }
    let config = blobs.described(manifest.get("config").ok_or_else(|| wrong("a manifest without a config"))?)?;
    let layers = array(&manifest, "layers")?;
    let diff_ids = diff_ids(&config, layers.len())?;
    let layer = |(of, diff_id): (&Value, String)| {
        let digest = digest_of(of)?;
        Ok(Layer { blobs: blobs.clone(), name: blob(&digest)?, digest: Some(digest), diff_id: Some(diff_id) })
    };
    layers.iter().zip(diff_ids).map(layer).collect()
}

/// An archive by `docker save` or `podman save`.
fn of_docker(blobs: &Blobs, tag: Option<&str>) -> io::Result<Vec<Layer>> {
    let manifest = blobs.json("manifest.json")?;
    let all = manifest.as_array().ok_or_else(|| wrong("a manifest that is no list"))?;
    let names = |one: &Value| {
        array(one, "RepoTags").unwrap_or_default().iter().filter_map(Value::as_str).map(str::to_owned).collect()
    };
    let image = chosen(all, tag, names)?;
    let text = |value: &Value| value.as_str().map(str::to_owned).ok_or_else(|| wrong("a manifest that makes no sense"));
    let config = blobs.json(&text(image.get("Config").unwrap_or(&Value::Null))?)?;
    let layers = array(image, "Layers")?;
    let diff_ids = diff_ids(&config, layers.len())?;
    let layer = |(name, diff_id): (&Value, String)| {
        Ok(Layer { blobs: blobs.clone(), name: text(name)?, digest: None, diff_id: Some(diff_id) })
    };
    layers.iter().zip(diff_ids).map(layer).collect()
}

/// The diff-ids of an image's layers.
fn diff_ids(config: &Value, layers: usize) -> io::Result<Vec<String>> {
    let ids = array(config.get("rootfs").unwrap_or(&Value::Null), "diff_ids")?;
    let ids: Vec<_> = ids.iter().filter_map(Value::as_str).map(str::to_owned).collect();
    if ids.len() != layers || ids.iter().any(|id| blob(id).is_err()) {
        return Err(wrong("a config whose layers are not those of the manifest"));
    }
    Ok(ids)
}

/// What a word of the command line names.
pub fn source_of(word: &std::ffi::OsStr) -> Source {
    let path = PathBuf::from(word);
    let whole = || Source { path: path.clone(), tag: None };
    if path.exists() {
        return whole();
    }
    let bytes = word.as_bytes();
    let parted = bytes.iter().rposition(|byte| *byte == b':').and_then(|at| {
        let tag = std::str::from_utf8(bytes.get(at + 1..)?).ok()?;
        let is_tag = !tag.is_empty() && !tag.contains('/') && at > 0;
        is_tag.then(|| Some((bytes.get(..at)?, tag)))?
    });
    parted.map_or_else(whole, |(path, tag)| Source {
        path: std::ffi::OsStr::from_bytes(path).into(),
        tag: Some(tag.to_owned()),
    })
}
